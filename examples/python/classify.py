"""Classifies a picture and prints the most probable classes of each head.

    pip install -r examples/python/requirements.txt
    mkdir -p gen/python
    python -m grpc_tools.protoc -Iproto --python_out=gen/python --pyi_out=gen/python --grpc_python_out=gen/python \
        proto/headswap/v1/*.proto
    PYTHONPATH=gen/python python examples/python/classify.py images/chelsea.png
    PYTHONPATH=gen/python python examples/python/classify.py images/chelsea.png --head default --head cats
"""

import argparse
import pathlib
import sys

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from headswap.v1 import classifier_pb2, classifier_pb2_grpc, head_spec_pb2

# The messages of error details that the server sends.
DETAILS = (
    error_details_pb2.BadRequest,
    error_details_pb2.ErrorInfo,
    error_details_pb2.QuotaFailure,
    error_details_pb2.ResourceInfo,
    error_details_pb2.RetryInfo,
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=pathlib.Path)
    parser.add_argument("--head", dest="heads", action="append", default=[], help="may be given several times")
    parser.add_argument("--address", default="127.0.0.1:50051")
    arguments = parser.parse_args()

    request = classifier_pb2.ClassifyRequest(image=arguments.picture.read_bytes(), heads=arguments.heads, top_k=3)
    # Responses with the logits of many classes are larger than gRPC's default limit of 4 MiB.
    options = [("grpc.max_receive_message_length", 64 << 20)]
    with grpc.insecure_channel(arguments.address, options) as channel:
        classifier = classifier_pb2_grpc.ClassifierServiceStub(channel)
        try:
            response = classifier.Classify(request, timeout=10)
        except grpc.RpcError as error:
            print(f"{error.code().name}: {error.details()}", file=sys.stderr)
            print_details(rpc_status.from_call(error))
            sys.exit(1)

    for result in response.results:
        # Of several heads, some can fail while the call succeeds.
        if result.HasField("error"):
            print(f"{result.head}: {result.error.message}", file=sys.stderr)
            print_details(result.error)
            continue
        print(f"{result.head}, version {result.version}")
        for prediction in result.predictions:
            name = prediction.label or prediction.index
            # Some heads answer values, which are no probabilities.
            if prediction.kind == head_spec_pb2.OUTPUT_KIND_LINEAR:
                print(f"  {prediction.value:8.4g}  {name}")
            elif prediction.kind == head_spec_pb2.OUTPUT_KIND_GROUPS:
                print(f"  {prediction.probability:6.1%}  {name} (group {prediction.group})")
            else:
                print(f"  {prediction.probability:6.1%}  {name}")


def print_details(status):
    """Prints the details of a `google.rpc.Status`, which can be None."""
    for packed in status.details if status else ():
        for kind in DETAILS:
            if packed.Is(kind.DESCRIPTOR):
                detail = kind()
                packed.Unpack(detail)
                print(f"{kind.DESCRIPTOR.name}: {str(detail).strip()}", file=sys.stderr)


if __name__ == "__main__":
    main()
