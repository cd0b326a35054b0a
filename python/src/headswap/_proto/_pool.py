"""The descriptor pool of the generated messages, apart from the default one, in which other packages may have the same files."""

from google.protobuf import any_pb2, duration_pb2
from google.protobuf.descriptor_pool import DescriptorPool

POOL = DescriptorPool()
for _imported in (any_pb2, duration_pb2):
    POOL.AddSerializedFile(_imported.DESCRIPTOR.serialized_pb)
