"""Starts the servers. Batches have at most 8 pictures; the others wait up to 2 ms for a fuller one, Headswap does not."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from server import Grpc, Http, Server, free_port

HERE = Path(__file__).resolve().parent
TRITON_CONFIG = """
name: "model"
backend: "python"
max_batch_size: 8
input [ {{ name: "image" data_type: {type} dims: [ {dims} ] }} ]
output [ {{ name: "classes" data_type: TYPE_INT32 dims: [ 5 ] }} ]
instance_group [ {{ kind: KIND_CPU count: {instances} }} ]
dynamic_batching {{ max_queue_delay_microseconds: 2000 }}
"""


@dataclass
class Work:
    """What is asked of every server: pixels if nothing is to be computed, else a JPEG file."""

    null: bool
    picture: bytes
    models: str
    threads: int
    workers: int
    folder: Path

    def environment(self, engine):
        """For `classifier.py`."""
        return {
            "PEER_ENGINE": engine,
            "PEER_MODELS": self.models,
            "PEER_THREADS": str(max(1, self.threads // self.workers)),
            "PEER_WORKERS": str(self.workers),
            "PYTHONPATH": str(HERE),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }

    def name(self, server, engine):
        return server + {"null": "", "torch": ", PyTorch bf16", "openvino": ", OpenVINO bf16"}[engine]


def headswap(work, binary, precision):
    """A server of ours, which answers the command line as well."""
    folder = work.folder / f"headswap-{precision}"
    flags = ["--weights", "demo", "--backend", "null"]
    if not work.null:
        flags = ["--weights", f"{work.models}/vgg16.safetensors", "--device", "cpu", "--precision", precision]
        flags += ["--threads", str(work.threads)]
    listen = [word for flag in ("--listen", "--admin-listen", "--http-listen") for word in (flag, "127.0.0.1:0")]
    command = [binary, "serve", "--announce", "--max-batch", "8", "--heads-dir", str(folder), *listen, *flags]

    def classes(_):
        if work.null:
            return range(5)
        picture = work.folder / "picture"
        picture.write_bytes(work.picture)
        command = [binary, "classify", "--address", server.address, "--top-k", "5", "--json", str(picture)]
        result = json.loads(subprocess.check_output(command))["results"][0]
        return [prediction["index"] for prediction in result["predictions"]]

    message = field(2 if work.null else 1, work.picture)
    request = Grpc("/headswap.v1.ClassifierService/Classify", message, classes)
    server = Server("Headswap" if work.null else f"Headswap {precision}", command, request)
    for line in server.process.stdout:
        said = json.loads(line)
        if said.get("listening") == "grpc":
            server.address = said["address"]
        if said.get("ready"):
            return server
    server.failed("it did not start")


def triton(work, engine):
    wheel = package("pytriton") / "tritonserver"
    python = f"{sys.version_info[0]}.{sys.version_info[1]}"
    folder = work.folder / f"triton-{engine}"
    shutil.copytree(wheel / "backends/python", folder / "backends/python")
    stub = wheel / "python_backend_stubs" / python / "triton_python_backend_stub"
    shutil.copy(stub, folder / "backends/python")
    model = folder / "models/model"
    (model / "1").mkdir(parents=True)
    shutil.copy(HERE / "triton_model.py", model / "1/model.py")
    shutil.copy(HERE / "classifier.py", model / "1")  # the backend looks nowhere else
    kind, dims = ("TYPE_UINT8", "224, 224, 3") if work.null else ("TYPE_STRING", "1")
    (model / "config.pbtxt").write_text(TRITON_CONFIG.format(type=kind, dims=dims, instances=work.workers))
    port = free_port()
    command = [str(wheel / "bin/tritonserver"), f"--model-repository={folder}/models"]
    command += [f"--backend-directory={folder}/backends", "--disable-auto-complete-config", "--allow-http=false"]
    command += ["--allow-metrics=false", "--grpc-address=127.0.0.1", f"--grpc-port={port}"]
    libraries = f"{wheel.parents[1]}/nvidia_pytriton.libs:{sysconfig.get_config_var('LIBDIR')}"
    environment = work.environment(engine) | {"LD_LIBRARY_PATH": libraries}
    tensor = ("UINT8", [1, 224, 224, 3], work.picture) if work.null else ("BYTES", [1, 1], lengthened(work.picture))
    name = work.name("Triton", engine)
    return Server(name, command, v2_request(*tensor), f"127.0.0.1:{port}", environment)


def mlserver(work, engine):
    package("mlserver")
    folder = work.folder / f"mlserver-{engine}"
    folder.mkdir()
    model = {"name": "model", "implementation": "mlserver_model.Model", "max_batch_size": 8, "max_batch_time": 0.002}
    (folder / "model-settings.json").write_text(json.dumps(model))
    ports = {f"{kind}_port": free_port() for kind in ("http", "grpc", "metrics")}
    # A single one in the server's own process, which is faster than one beside it.
    workers = work.workers if work.workers > 1 else 0
    settings = {"debug": False, "host": "127.0.0.1", "parallel_workers": workers, "metrics_dir": str(folder)}
    (folder / "settings.json").write_text(json.dumps(settings | {"environments_dir": str(folder)} | ports))
    command = [str(Path(sys.executable).parent / "mlserver"), "start", str(folder)]
    # Pixels as one string of bytes, too: as UINT8 they would become a list of numbers.
    request = v2_request("BYTES", [1, 1], lengthened(work.picture))
    address = f"127.0.0.1:{ports['grpc_port']}"
    return Server(work.name("MLServer", engine), command, request, address, work.environment(engine))


def litserve(work, engine):
    package("litserve")
    port, boundary = free_port(), "boundary-of-the-parts"
    part = f'--{boundary}\r\nContent-Disposition: form-data; name="request"; filename="picture"\r\n\r\n'
    body = part.encode() + work.picture + f"\r\n--{boundary}--\r\n".encode()
    request = Http("/predict", body, f"multipart/form-data; boundary={boundary}")
    command = [sys.executable, str(HERE / "litserve_server.py"), str(port)]
    return Server(work.name("LitServe", engine), command, request, f"127.0.0.1:{port}", work.environment(engine))


def mosec(work, engine):
    package("mosec")
    port = free_port()
    command = [sys.executable, str(HERE / "mosec_server.py"), "--address", "127.0.0.1", "--port", str(port)]
    command += ["--timeout", "300000", "--capacity", "1024"]
    request = Http("/inference", work.picture, "application/octet-stream")
    return Server(work.name("mosec", engine), command, request, f"127.0.0.1:{port}", work.environment(engine))


def package(name):
    """Where a package is. It is not imported: the messages of one are in the way of the other's."""
    found = importlib.util.find_spec(name)
    if not found:
        raise ImportError(f"{name} is missing")
    return Path(found.origin).parent


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes(out + bytes([number]))


def field(number, content):
    """A length-delimited field of a protobuf message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def lengthened(content):
    """A string of bytes, as a tensor of the V2 protocol holds it."""
    return len(content).to_bytes(4, "little") + content


def v2_request(datatype, shape, content):
    """A call of the V2 protocol, which Triton and MLServer speak."""
    from tritonclient.grpc import service_pb2

    request = service_pb2.ModelInferRequest(model_name="model", raw_input_contents=[content])
    request.inputs.add(name="image", datatype=datatype, shape=shape)

    def classes(answer):
        answer = service_pb2.ModelInferResponse.FromString(answer)
        raw = b"".join(answer.raw_output_contents)
        return memoryview(raw).cast("i") if raw else answer.outputs[0].contents.int_contents

    return Grpc("/inference.GRPCInferenceService/ModelInfer", request.SerializeToString(), classes)
