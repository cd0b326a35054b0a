"""A server of LitServe: `litserve_server.py PORT`."""

import os
import sys

import litserve
from classifier import classifier
from fastapi import UploadFile


class Api(litserve.LitAPI):
    def setup(self, device):
        self.classify = classifier()

    def decode_request(self, request: UploadFile):
        return request.file.read()

    def batch(self, inputs):
        return inputs

    def predict(self, inputs):
        return self.classify(inputs)

    def unbatch(self, classes):
        return classes

    def encode_response(self, classes):
        return {"classes": classes.tolist()}


if __name__ == "__main__":
    api = Api(max_batch_size=8, batch_timeout=0.002)
    workers = int(os.environ["PEER_WORKERS"])
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, timeout=300)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
