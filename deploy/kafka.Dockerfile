# Apache Kafka, started by kafka.sh: any image with bash, java (17 or newer) and Kafka's jars in /opt/kafka/libs.
ARG KAFKA_IMAGE=apache/kafka:4.1.1

FROM ${KAFKA_IMAGE}
USER 0:0
RUN mkdir -p /kafka /keys && chown 10001:10001 /kafka /keys && chmod 700 /kafka
COPY deploy/kafka.sh /opt/kafka/kafka.sh
WORKDIR /tmp
USER 10001:10001
ENTRYPOINT ["bash", "/opt/kafka/kafka.sh"]
