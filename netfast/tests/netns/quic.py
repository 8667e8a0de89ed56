"""A QUIC server whose connection IDs name it in plain text (draft-ietf-quic-load-balancers-21), and a client that moves.

quic.py server ADDRESS PORT SERVER-ID CERTIFICATE KEY FILE: sends FILE on every stream that is opened.
quic.py move ADDRESS PORT FIRST-PORT PORT...: downloads it, from another port of its own after each 512 KiB.
quic.py wander ADDRESS PORT FIRST-PORT PORT...: does not wait for the data, as its packets may not arrive.
"""

import asyncio
import hashlib
import os
import socket
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect, serve
from aioquic.quic import connection as quic_connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived

STEP = 512 << 10
NONCE = 6


class NamedConnections:
    """What aioquic takes for the module `os`: its connection IDs are the random values of one length."""

    def __init__(self, server_id):
        self.server_id = server_id
        self.length = 1 + len(server_id) + NONCE

    def urandom(self, length):
        value = os.urandom(length)
        if length != self.length:
            return value
        # The configuration's bits must not be 111.
        return bytes([value[0] & 0x1F]) + self.server_id + value[-NONCE:]

    def __getattr__(self, name):
        return getattr(os, name)


async def server(address, port, server_id, certificate, key, file):
    with open(file, "rb") as opened:
        data = opened.read()

    class Server(QuicConnectionProtocol):
        def quic_event_received(self, event):
            if isinstance(event, StreamDataReceived) and event.end_stream:
                self._quic.send_stream_data(event.stream_id, data, end_stream=True)

    quic_connection.os = NamedConnections(bytes.fromhex(server_id))
    configuration = QuicConfiguration(
        is_client=False, alpn_protocols=["netfast"], connection_id_length=quic_connection.os.length
    )
    configuration.load_cert_chain(certificate, key)
    await serve(address, int(port), configuration=configuration, create_protocol=Server)
    print("ready", flush=True)
    await asyncio.Event().wait()


class Client(QuicConnectionProtocol):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hash, self.received, self.over = hashlib.sha256(), 0, False
        self.more = asyncio.Event()
        self.pings = []

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            self.hash.update(event.data)
            self.received += len(event.data)
            self.over |= event.end_stream
        elif isinstance(event, ConnectionTerminated):
            self.over = True
        self.more.set()

    async def wait(self, enough):
        while not self.over and self.received < enough:
            self.more.clear()
            await self.more.wait()

    async def move(self, port):
        old = self._transport
        new = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        new.bind(("::", port))
        await asyncio.get_running_loop().create_datagram_endpoint(lambda: self, sock=new)
        old.close()


async def client(waits, address, port, first, *ports):
    configuration = QuicConfiguration(
        is_client=True, alpn_protocols=["netfast"], verify_mode=ssl.CERT_NONE
    )
    to = connect(
        address, int(port), configuration=configuration, create_protocol=Client, local_port=int(first)
    )
    async with to as peer:
        peer._quic.send_stream_data(peer._quic.get_next_available_stream_id(), b"?", end_stream=True)
        peer.transmit()
        await peer.wait(STEP)
        for number, port in enumerate(ports):
            if waits:
                await peer.wait(STEP * (number + 1))
                if peer.over:
                    sys.exit("it was over before the client moved")
            else:
                await asyncio.sleep(0.05)
            await peer.move(int(port))
            # By turns as a NAT does it, and as a client does that knows: by a connection ID not used before.
            if number % 2:
                peer.change_connection_id()
            peer.pings.append(asyncio.ensure_future(peer.ping()))
        if not waits:
            # Without a farewell: it may have nobody to say it to.
            os._exit(0)
        while not peer.over:
            await peer.wait(peer.received + 1)
        print("sha256", peer.hash.hexdigest(), flush=True)


kind, *arguments = sys.argv[1:]
if kind == "server":
    asyncio.run(server(*arguments))
else:
    asyncio.run(client(kind == "move", *arguments))
