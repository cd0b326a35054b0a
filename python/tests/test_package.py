"""The package agrees with the protos and the files around it."""

import pathlib
import subprocess
import sys
import tempfile
import unittest

import headswap
from headswap import _rpc, errors
from headswap._proto import classifier_pb2, head_admin_pb2

from served import ROOT

PACKAGE = ROOT / "python"


class PackageTest(unittest.TestCase):
    def test_the_generated_code_is_that_of_the_protos(self):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, PACKAGE / "generate", "--output", folder]
            subprocess.run(command, check=True, capture_output=True)
            made = {path.name: path.read_text() for path in pathlib.Path(folder).iterdir()}
        kept = {path.name: path.read_text() for path in (PACKAGE / "src/headswap/_proto").glob("*_pb2.py*")}
        self.assertEqual(made.keys(), kept.keys())
        for name, text in made.items():
            self.assertEqual(text, kept[name], f"{name}: run python/generate")

    def test_the_methods_are_those_of_the_protos(self):
        expected = {}
        for messages, service in ((classifier_pb2, "ClassifierService"), (head_admin_pb2, "HeadAdminService")):
            for method in messages.DESCRIPTOR.services_by_name[service].methods:
                path = f"/headswap.v1.{service}/{method.name}"
                expected[path] = (method.input_type.full_name, method.output_type.full_name)
        known = [value for value in vars(_rpc).values() if isinstance(value, _rpc.Method)]
        found = {one.path: (one.request.DESCRIPTOR.full_name, one.response.DESCRIPTOR.full_name) for one in known}
        self.assertEqual(found, expected)

    def test_other_generated_code_may_be_beside_it(self):
        """The same files in the default pool, in another version."""
        from google.protobuf import descriptor_pb2, descriptor_pool

        file = descriptor_pb2.FileDescriptorProto(name="headswap/v1/classifier.proto", package="headswap.v1")
        file.message_type.add(name="ClassifyRequest")
        descriptor_pool.Default().AddSerializedFile(file.SerializeToString())
        self.assertEqual(len(classifier_pb2.ClassifyRequest.DESCRIPTOR.fields), 7)

    def test_the_licence_is_that_of_the_repository(self):
        self.assertEqual((PACKAGE / "LICENSE").read_bytes(), (ROOT / "LICENSE").read_bytes())

    def test_the_version_is_that_of_the_repository(self):
        self.assertIn(f'version = "{headswap.__version__}"', (ROOT / "Cargo.toml").read_text())

    def test_all_names_exist(self):
        for name in headswap.__all__:
            self.assertTrue(hasattr(headswap, name), name)

    def test_frameworks_are_not_imported(self):
        names = "torch", "torchvision", "timm", "keras", "tensorflow", "PIL"
        program = f"import sys, headswap; print([name for name in {names} if name in sys.modules])"
        done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
        self.assertEqual(done.stdout.strip(), "[]")

    def test_every_status_has_its_class(self):
        for kind in errors.ServerError.__subclasses__():
            self.assertIn(kind.__name__, headswap.__all__)

    def test_the_presets_are_documented(self):
        text = (ROOT / "docs/head-specs.md").read_text()
        for name in headswap.PRESETS:
            self.assertIn(f"| `{name}` |", text)

    def test_the_usual_administration_is_on_the_same_host(self):
        for server, admin in (("host:1", "host:50052"), ("host", "host:50052"), ("[::1]:5", "[::1]:50052"), ("dns:///a:1", "dns:///a:50052")):
            self.assertEqual(headswap.Client(server).admin, admin)
        with self.assertRaises(ValueError):
            headswap.Client("unix:/tmp/socket").admin


if __name__ == "__main__":
    unittest.main()
