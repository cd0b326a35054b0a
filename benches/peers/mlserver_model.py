"""A model of MLServer."""

from classifier import classifier
from mlserver import MLModel
from mlserver.types import InferenceResponse, ResponseOutput


class Model(MLModel):
    async def load(self):
        self.classify = classifier()
        return True

    async def predict(self, request):
        classes = self.classify(request.inputs[0].data.root)
        output = ResponseOutput(name="classes", shape=classes.shape, datatype="INT32", data=classes.ravel().tolist())
        return InferenceResponse(model_name=self.name, outputs=[output])
