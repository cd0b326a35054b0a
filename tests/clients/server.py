"""A headswap server as a child process, on free ports."""

import json
import subprocess


class Server:
    """Starts `binary serve` with `args` and waits until it is ready; stops it with SIGTERM on exit."""

    def __init__(self, binary, *args):
        flags = [flag for flag in ("--listen", "--admin-listen", "--http-listen") if flag not in args]
        listen = [word for flag in flags for word in (flag, "127.0.0.1:0")]
        command = [binary, "serve", "--announce", *listen, "--log", "warn", *args]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.addresses = {}
        for line in self.process.stdout:
            said = json.loads(line)
            if said.get("ready"):
                return
            self.addresses[said["listening"]] = said["address"]
        raise RuntimeError(f"the server ended with {self.process.wait()}")

    def stop(self):
        self.process.terminate()
        self.process.stdout.close()
        return self.process.wait()
