"""A server that hears one request and gives the answer that it was told."""

import socket
import threading


class Hearing:
    """A server of one request, over TLS where it has a context."""

    def __init__(self, status, context=None, answer=b""):
        self.server, self.heard = socket.create_server(("127.0.0.1", 0)), b""
        self.port = self.server.getsockname()[1]
        self.status, self.context, self.answer = status, context, answer
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        connection, _ = self.server.accept()
        if self.context:
            connection = self.context.wrap_socket(connection, server_side=True)
        with connection:
            while b"\r\n\r\n" not in self.heard or len(self.body) < int(self.header("content-length")):
                self.heard += connection.recv(65_536)
            head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.answer)}\r\n\r\n"
            connection.sendall(head.encode() + self.answer)

    @property
    def body(self):
        return self.heard.partition(b"\r\n\r\n")[2]

    @property
    def path(self):
        return self.heard.split()[1].decode()

    def header(self, name):
        lines = self.heard.partition(b"\r\n\r\n")[0].decode().splitlines()[1:]
        return next((value for key, value in (line.split(": ", 1) for line in lines) if key.lower() == name), "0")

    def close(self):
        self.thread.join()
        self.server.close()
