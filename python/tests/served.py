"""A headswap server as a child process, and what tests serve with it."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
from types import TracebackType

ROOT = pathlib.Path(__file__).resolve().parents[2]
IMAGES = ROOT / "images"
CHELSEA = IMAGES / "chelsea.png"
ROCKET = IMAGES / "rocket.jpg"
# A batch of a given size spares the measurement at start.
NARROW = ("--weights", "demo", "--arch", "vgg16-narrow", "--device", "cpu", "--max-batch", "8")


class Server:
    """Starts `headswap serve` on free ports and waits until it is ready; stops it on exit."""

    def __init__(self, heads: str | os.PathLike[str], *args: str) -> None:
        flags = [flag for flag in ("--listen", "--admin-listen", "--http-listen") if flag not in args]
        listen = [word for flag in flags for word in (flag, "127.0.0.1:0")]
        command = [os.environ["HEADSWAP_BINARY"], "serve", "--announce", "--log", "error", "--heads-dir", os.fspath(heads)]
        self.command = [*command, *listen, *args]
        self.addresses: dict[str, str] = {}
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True)
        self._wait()

    def _wait(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            said = json.loads(line)
            if said.get("ready"):
                return
            self.addresses[said["listening"]] = said["address"]
        raise RuntimeError(f"the server ended with {self.process.wait()}")

    @property
    def grpc(self) -> str:
        """The address of classification."""
        return self.addresses["grpc"]

    @property
    def admin(self) -> str:
        """The address of administration."""
        return self.addresses["admin"]

    def kill(self) -> None:
        """Kills it without a chance to answer what it has."""
        self.process.kill()
        self.process.wait()
        self._close()

    def start_again(self) -> None:
        """Starts it on the same ports."""
        listen = {"--listen": "grpc", "--admin-listen": "admin", "--http-listen": "http"}
        command = list(self.command)
        for flag, kind in listen.items():
            if kind in self.addresses:
                command[command.index(flag) + 1] = self.addresses[kind]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._wait()

    def stop(self) -> int:
        """Stops it and returns its exit code."""
        self.process.terminate()
        code = self.process.wait()
        self._close()
        return code

    def _close(self) -> None:
        if self.process.stdout is not None:
            self.process.stdout.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.stop()
