"""Replaces a head with a fine-tuned VGG16, or with its head alone, as PyTorch or safetensors wrote it.

    pip install -r examples/python/requirements.txt
    mkdir -p gen/python
    python -m grpc_tools.protoc -Iproto --python_out=gen/python --pyi_out=gen/python --grpc_python_out=gen/python \
        proto/headswap/v1/*.proto
    PYTHONPATH=gen/python python examples/python/replace_head.py cats finetuned.pth \
        --preprocessing torchvision --output softmax --labels cat,tiger
    PYTHONPATH=gen/python python examples/python/replace_head.py cats finetuned.pth --spec cats.json

`finetuned.pth` is what `torch.save(model.state_dict(), "finetuned.pth")` writes after training. The server reads it without running
anything in it, and keeps what differs from its backbone. A file does not say how its pictures were prepared, nor what its output means:
docs/head-specs.md has the presets, and the keys of a spec. `headswap head replace` does the same and sends only what differs.

`--old-field` sends `safetensors` and no spec, for servers before head specs; others then assume the backbone's preprocessing and
softmax.
"""

import argparse
import json
import pathlib
import sys

import grpc
from headswap.v1 import head_admin_pb2, head_admin_pb2_grpc

# A larger file is sent in chunks.
ONE_MESSAGE_BYTES_MAX = 4 << 20
CHUNK_BYTES = 1 << 20


def main():
    arguments = parse_arguments()
    file = arguments.file.read_bytes()
    common = {
        "head": arguments.head,
        "labels": arguments.labels,
        "expected_version": arguments.expected_version,
    }
    if not arguments.old_field:
        common["spec_json"] = json.dumps(read_spec(arguments))
    with grpc.insecure_channel(arguments.address) as channel:
        admin = head_admin_pb2_grpc.HeadAdminServiceStub(channel)
        try:
            if len(file) > ONE_MESSAGE_BYTES_MAX:
                header = head_admin_pb2.UploadHeadHeader(size_bytes=len(file), **common)
                response = admin.UploadHead(parts(header, file), timeout=600)
            else:
                source = {"safetensors" if arguments.old_field else "file": file}
                response = admin.ReplaceHead(head_admin_pb2.ReplaceHeadRequest(**source, **common), timeout=60)
        except grpc.RpcError as error:
            sys.exit(f"{error.code().name}: {error.details()}")

    head = response.head
    print(f"{head.head}: version {response.previous_version} -> {head.version}, {head.classes} classes, {head.digest}")
    for line in head.assumed:
        print(f"assumed: {line}")
    for name in response.left_out:
        print(f"left out: {name}")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("head")
    parser.add_argument("file", type=pathlib.Path, metavar="FILE", help="a .pth or .safetensors file")
    parser.add_argument("--spec", type=pathlib.Path, metavar="FILE.json", help="the head's spec")
    parser.add_argument("--preprocessing", metavar="PRESET", help="such as torchvision, torchvision-stretch or unit")
    parser.add_argument("--output", choices=["softmax", "sigmoid", "linear"], help="what its output means")
    parser.add_argument("--labels", type=lambda text: text.split(","), default=[], help="one for each class")
    parser.add_argument("--expected-version", type=int, help="replace only if this version is live; 0: only if new")
    parser.add_argument("--old-field", action="store_true", help="send no spec, as for servers before head specs")
    parser.add_argument("--address", default="127.0.0.1:50052")
    arguments = parser.parse_args()
    if not arguments.old_field and not arguments.spec and not (arguments.preprocessing and arguments.output):
        parser.error("give --preprocessing and --output, or --spec")
    return arguments


def read_spec(arguments):
    """The spec of the file, with the flags in place of its keys."""
    spec = json.loads(arguments.spec.read_text()) if arguments.spec else {}
    if arguments.preprocessing:
        spec["preprocessing"] = {"preset": arguments.preprocessing}
    if arguments.output:
        spec["output"] = arguments.output
    return spec


def parts(header, file):
    """The messages of an upload."""
    yield head_admin_pb2.UploadHeadRequest(header=header)
    for start in range(0, len(file), CHUNK_BYTES):
        yield head_admin_pb2.UploadHeadRequest(chunk=file[start : start + CHUNK_BYTES])


if __name__ == "__main__":
    main()
