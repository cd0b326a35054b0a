"""A server of mosec; it reads its own flags."""

import os

from classifier import classifier
from mosec import Server, Worker


class Classifier(Worker):
    def __init__(self):
        self.classify = classifier()

    def deserialize(self, data):
        return data

    def forward(self, data):
        return [{"classes": classes.tolist()} for classes in self.classify(data)]


if __name__ == "__main__":
    workers = int(os.environ["PEER_WORKERS"])
    server = Server()
    server.append_worker(Classifier, num=workers, max_batch_size=8, max_wait_time=2, timeout=300)
    server.run()
