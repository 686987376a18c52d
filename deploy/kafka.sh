#!/bin/bash
# One Kafka node that is its own controller (KRaft), over /kafka. Needs java and /opt/kafka/libs, as in
# apache/kafka. KAFKA_SECURITY is plain, or sasl: then only who knows the password comes in, over TLS.
set -euo pipefail
case "${KAFKA_SECURITY:-plain}" in
    plain) protocol=PLAINTEXT ;;
    sasl) protocol=SASL_SSL ;;
    *) echo "error: KAFKA_SECURITY must be plain or sasl, got $KAFKA_SECURITY" >&2; exit 3 ;;
esac
data=/kafka/data properties=/tmp/server.properties
cat > "$properties" <<END
process.roles=broker,controller
node.id=1
listeners=CLIENTS://0.0.0.0:9092,BROKER://127.0.0.1:9094,CONTROLLER://127.0.0.1:9093
advertised.listeners=CLIENTS://kafka:9092,BROKER://127.0.0.1:9094
listener.security.protocol.map=CLIENTS:$protocol,BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
controller.quorum.bootstrap.servers=127.0.0.1:9093
log.dirs=$data
num.partitions=2
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.retention.hours=${KAFKA_RETENTION_HOURS:-168}
ssl.keystore.type=PEM
ssl.keystore.location=/keys/kafka.pem
sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.clients.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
END
java=(java "-Xmx${KAFKA_HEAP:-384m}" -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp "/opt/kafka/libs/*")
if [ ! -e "$data/meta.properties" ]; then
    # The user is made whatever the listener is today: a cluster may be given its listener later, and not its users.
    "${java[@]}" kafka.tools.StorageTool format --ignore-formatted --standalone -c "$properties" \
        -t "$("${java[@]}" kafka.tools.StorageTool random-uuid)" \
        --add-scram "SCRAM-SHA-512=[name=fedmb,password=$(cat /keys/kafka.password)]"
fi
exec "${java[@]}" kafka.Kafka "$properties"
