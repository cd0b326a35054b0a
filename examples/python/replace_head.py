"""Replaces a head with the last layer of a fine-tuned VGG16, read from a PyTorch state dict.

    pip install -r examples/python/requirements.txt torch
    mkdir -p gen/python
    python -m grpc_tools.protoc -Iproto --python_out=gen/python --pyi_out=gen/python --grpc_python_out=gen/python \
        proto/headswap/v1/*.proto
    PYTHONPATH=gen/python python examples/python/replace_head.py cats finetuned.pth --labels cat,tiger

`finetuned.pth` is what `torch.save(model.state_dict(), "finetuned.pth")` writes after `model.classifier[6]` was replaced and
trained. If deeper layers were trained too, name them: `--layers classifier.3 classifier.6`.
"""

import argparse
import sys

import grpc
import torch
from headswap.v1 import head_admin_pb2, head_admin_pb2_grpc
from safetensors.torch import save

CHUNK_BYTES = 1 << 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("head")
    parser.add_argument("state_dict", metavar="FILE.pth")
    parser.add_argument("--layers", nargs="+", default=["classifier.6"], help="the layers that were trained")
    parser.add_argument("--labels", type=lambda text: text.split(","), default=[], help="one for each class")
    parser.add_argument("--expected-version", type=int, help="replace only if this version is live; 0: only if new")
    parser.add_argument("--address", default="127.0.0.1:50052")
    arguments = parser.parse_args()

    # weights_only: a state dict needs no code, and a file from elsewhere must not run any.
    state_dict = torch.load(arguments.state_dict, map_location="cpu", weights_only=True)
    names = [f"{layer}.{kind}" for layer in arguments.layers for kind in ("weight", "bias")]
    missing = [name for name in names if name not in state_dict]
    if missing:
        sys.exit(f"{arguments.state_dict} has no {', '.join(missing)}")
    file = save({name: state_dict[name].contiguous() for name in names})

    header = head_admin_pb2.UploadHeadHeader(
        head=arguments.head,
        labels=arguments.labels,
        expected_version=arguments.expected_version,
        size_bytes=len(file),
    )
    with grpc.insecure_channel(arguments.address) as channel:
        admin = head_admin_pb2_grpc.HeadAdminServiceStub(channel)
        try:
            response = admin.UploadHead(parts(header, file), timeout=60)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")

    head = response.head
    print(f"{head.head}: version {response.previous_version} -> {head.version}, {head.classes} classes, {head.digest}")


def parts(header, file):
    """The messages of an upload."""
    yield head_admin_pb2.UploadHeadRequest(header=header)
    for start in range(0, len(file), CHUNK_BYTES):
        yield head_admin_pb2.UploadHeadRequest(chunk=file[start : start + CHUNK_BYTES])


if __name__ == "__main__":
    main()
