"""A model of Triton's Python backend."""

import triton_python_backend_utils as backend
from classifier import classifier


class TritonPythonModel:
    def initialize(self, args):
        self.classify = classifier()

    def execute(self, requests):
        tensors = [backend.get_input_tensor_by_name(request, "image").as_numpy() for request in requests]
        classes = self.classify([row[0] if row.dtype == object else row for rows in tensors for row in rows])
        answers = []
        for rows in tensors:
            answers.append(backend.InferenceResponse([backend.Tensor("classes", classes[: len(rows)])]))
            classes = classes[len(rows) :]
        return answers
