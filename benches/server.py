"""A server process under load by h2load (of nghttp2): how it is asked, what it answers and what it costs."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import grpc
import psutil


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@dataclass
class Grpc:
    """One call of a method; `classes` reads the answer."""

    method: str
    message: bytes
    classes: Callable[[bytes], list]

    def ask(self, address):
        with grpc.insecure_channel(address) as channel:
            return self.classes(channel.unary_unary(self.method)(self.message, timeout=60))

    def load(self, address, concurrency):
        """What h2load sends, its flags and the URL: as many streams, over at most four connections."""
        connections = min(concurrency, 4)
        flags = ["-c", connections, "-m", concurrency // connections]
        flags += ["-H", "content-type: application/grpc", "-H", "te: trailers"]
        return b"\0" + len(self.message).to_bytes(4, "big") + self.message, flags, f"http://{address}{self.method}"


@dataclass
class Http:
    """A POST of HTTP/1.1, answered in JSON."""

    path: str
    body: bytes
    content_type: str

    def ask(self, address):
        headers = {"content-type": self.content_type}
        request = urllib.request.Request(f"http://{address}{self.path}", self.body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["classes"]

    def load(self, address, concurrency):
        flags = ["--h1", "-c", concurrency, "-m", 1, "-H", f"content-type: {self.content_type}"]
        return self.body, flags, f"http://{address}{self.path}"


class Server:
    """A process, and how to ask it. Headswap tells its addresses itself: `address` is then set by who starts it."""

    def __init__(self, name, command, request, address=None, environment=None):
        self.name, self.request, self.address = name, request, address
        self.log = tempfile.NamedTemporaryFile("w+")
        output = self.log if address else subprocess.PIPE
        environment = {**os.environ, **(environment or {})}
        self.process = subprocess.Popen(command, env=environment, stdout=output, stderr=self.log, text=True)

    def tree(self):
        process = psutil.Process(self.process.pid)
        return [process, *process.children(recursive=True)]

    def cpu_seconds(self):
        return sum(sum(process.cpu_times()[:2]) for process in self.tree())

    def megabytes(self):
        """What its processes share counts once."""
        return sum(process.memory_full_info().pss for process in self.tree()) / 1e6

    def failed(self, why):
        self.log.flush()
        sys.exit(f"{self.name}: {why}\n{Path(self.log.name).read_text()[-3000:]}")

    def suspend(self):
        """Stops the clock for it: some servers look for work all the time, and cost the others theirs."""
        for process in self.tree():
            process.suspend()

    def resume(self):
        for process in self.tree():
            process.resume()

    def classes(self):
        """Its answer, once it is there. h2load does not look at gRPC's status; this does."""
        deadline = time.time() + 120
        while True:
            try:
                return list(self.request.ask(self.address))
            except (grpc.RpcError, OSError) as error:
                if time.time() > deadline or self.process.poll() is not None:
                    self.failed(error)
                time.sleep(0.2)

    def load(self, h2load, concurrency, seconds):
        """A dict of figures."""
        body, flags, url = self.request.load(self.address, concurrency)
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder, "log")
            Path(folder, "body").write_bytes(body)
            command = [h2load, *map(str, flags), "-d", f"{folder}/body", f"--log-file={log}", url]

            def run(count):
                log.unlink(missing_ok=True)
                before, start = self.cpu_seconds(), time.time()
                subprocess.run([*command, "-n", str(count)], check=True, stdout=subprocess.DEVNULL)
                return time.time() - start, self.cpu_seconds() - before

            probe = 2 * concurrency
            took, _ = run(probe)
            count = max(int(probe / took * seconds), probe)
            took, cpu = run(count)
            rows = [line.split() for line in log.read_text().splitlines()]
        times = sorted(int(row[2]) / 1e3 for row in rows if row[1] == "200")
        if len(times) != count:
            self.failed(f"{count - len(times)} of {count} requests failed")
        return {
            "rate": count / took,
            "p50": times[count // 2],
            "p99": times[int(0.99 * (count - 1))],
            "cpu": cpu / count * 1e3,
            "megabytes": self.megabytes(),
        }

    def stop(self):
        processes = self.tree() if self.process.poll() is None else []
        self.process.send_signal(signal.SIGTERM)
        _, alive = psutil.wait_procs(processes, timeout=15)
        for process in alive:
            process.kill()
        self.log.close()
