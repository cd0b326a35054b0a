"""Stubs generated from proto/ as its README says, and the examples, against a server.

A language is skipped if its tools are not installed or its packages cannot be had.
"""

import importlib.util
import json
import math
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile
import unittest

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from server import Server

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ["HEADSWAP_BINARY"])
CHELSEA = ROOT / "images/chelsea.png"
# The well-known types, which some installations of protoc lack.
WELL_KNOWN = pathlib.Path(importlib.util.find_spec("grpc_tools").origin).parent / "_proto"
PROTOS = [f"headswap/v1/{name}.proto" for name in ("classifier", "head_admin", "head_spec")]


def run(*command, **options):
    """Runs a command in the project's root; returns the finished process."""
    options = {"cwd": ROOT, "text": True, "capture_output": True, "timeout": 120} | options
    return subprocess.run([str(word) for word in command], **options)


def safetensors(shapes):
    """A safetensors file of tensors of these shapes, of zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + bytes(end)


class StubsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.folder.cleanup)
        args = ["--weights", "demo", "--arch", "vgg16-narrow", "--device", "cpu", "--heads-dir", f"{cls.folder.name}/heads"]
        cls.server = Server(str(BINARY), *args)
        cls.addClassCleanup(cls.server.process.kill)
        cls.environment = os.environ | {"HEADSWAP_ADDRESS": cls.server.addresses["grpc"]}
        cls.python = pathlib.Path(cls.folder.name) / "python"
        cls.python.mkdir()
        outputs = [f"--{kind}_out={cls.python}" for kind in ("python", "pyi", "grpc_python")]
        cls.succeed(run(sys.executable, "-m", "grpc_tools.protoc", "-Iproto", *outputs, *PROTOS))
        sys.path.append(str(cls.python))

    @staticmethod
    def succeed(process):
        if process.returncode != 0:
            raise AssertionError(f"{process.args} ended with {process.returncode}:\n{process.stdout}{process.stderr}")
        return process

    def need(self, *programs):
        for program in programs:
            if not shutil.which(program):
                self.skipTest(f"{program} is not installed")

    def install_packages(self, folder):
        """Installs packages of npm, unless that was done for this lock file already."""
        self.need("node", "npm")
        lock, installed = ROOT / folder / "package-lock.json", ROOT / folder / "node_modules/.complete"
        if installed.exists() and installed.read_bytes() == lock.read_bytes():
            return
        process = run("npm", "ci", "--no-audit", "--no-fund", "--prefix", folder)
        if process.returncode != 0:
            self.skipTest(f"npm cannot install the packages of {folder}: {process.stderr.strip()[-200:]}")
        shutil.copy(lock, installed)

    def check_example(self, *command, environment={}):
        """An example classifies a picture, and shows the details of an error."""
        environment = self.environment | environment
        answered = self.succeed(run(*command, CHELSEA, env=environment))
        self.assertRegex(answered.stdout, r"^default, version 1\n(.+%.+\n){3}$")
        refused = run(*command, ROOT / "README.md", env=environment)
        self.assertEqual(refused.returncode, 1, refused.stderr)
        self.assertIn("input", refused.stderr)
        partly = self.succeed(run(*command, CHELSEA, *self.heads(command, "default", "nobody"), env=environment))
        self.assertIn("default, version 1", partly.stdout)
        self.assertIn("nobody", partly.stderr)

    @staticmethod
    def heads(command, *names):
        """How an example names heads."""
        flags = any(str(word).endswith(".py") for word in command)
        return [word for name in names for word in (("--head", name) if flags else (name,))]

    def test_python(self):
        messages = importlib.import_module("headswap.v1.classifier_pb2")
        services = importlib.import_module("headswap.v1.classifier_pb2_grpc")
        with grpc.insecure_channel(self.server.addresses["grpc"]) as channel:
            classifier = services.ClassifierServiceStub(channel)
            response = classifier.Classify(messages.ClassifyRequest(image=CHELSEA.read_bytes(), top_k=2, request_id="r"))
            (result,) = response.results
            self.assertEqual((response.request_id, result.head, len(result.predictions)), ("r", "default", 2))

            with self.assertRaises(grpc.RpcError) as caught:
                classifier.Classify(messages.ClassifyRequest(pixels=b"123"))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        (packed,) = rpc_status.from_call(caught.exception).details
        detail = error_details_pb2.BadRequest()
        self.assertTrue(packed.Unpack(detail))
        self.assertEqual([violation.field for violation in detail.field_violations], ["input"])

    def test_python_example(self):
        address = ["--address", self.server.addresses["grpc"]]
        self.check_example(
            sys.executable, "examples/python/classify.py", *address, environment={"PYTHONPATH": str(self.python)}
        )

    def test_python_example_replaces_a_head(self):
        file = pathlib.Path(self.folder.name) / "cats.safetensors"
        file.write_bytes(safetensors({"classifier.6.weight": [2, 128], "classifier.6.bias": [2]}))

        def replace(*flags):
            command = [sys.executable, "examples/python/replace_head.py", "cats", file, "--labels", "cat,tiger", *flags]
            environment = os.environ | {"PYTHONPATH": str(self.python)}
            return run(*command, "--address", self.server.addresses["admin"], env=environment)

        spec = ("--preprocessing", "unit", "--output", "sigmoid")
        replaced = self.succeed(replace(*spec, "--expected-version", 0))
        self.assertIn("cats: version 0 -> 1, 2 classes", replaced.stdout)
        self.assertNotIn("assumed", replaced.stdout)
        old = self.succeed(replace("--old-field"))
        self.assertIn("cats: version 1 -> 2, 2 classes", old.stdout)
        self.assertIn("assumed: output: softmax", old.stdout)
        self.assertEqual(replace().returncode, 2)
        self.assertIn("ABORTED", replace(*spec, "--expected-version", 0).stderr)

    def test_nodejs_example(self):
        self.install_packages("examples/nodejs")
        self.check_example("node", "examples/nodejs/classify.js")

    def test_rust_example(self):
        example = BINARY.parent / "examples/classify"
        if not example.exists():
            self.skipTest("cargo build -p headswap-client --example classify has not been run")
        self.check_example(example)

    def test_typescript(self):
        folder = pathlib.Path("tests/clients/typescript")
        self.install_packages(folder)
        tools = folder / "node_modules/.bin"
        # Beside a link to the packages, so that the compiler finds them.
        project = pathlib.Path(self.folder.name) / "typescript"
        project.mkdir()
        (project / "node_modules").symlink_to(ROOT / folder / "node_modules")
        for name in ("client.ts", "package.json", "tsconfig.json"):
            shutil.copy(ROOT / folder / name, project)
        self.succeed(run(tools / "buf", "generate", "--template", folder / "buf.gen.yaml", "--output", project))
        self.succeed(run(tools / "tsc", "--project", project))

    def test_java(self):
        self.need("protoc")
        folder = pathlib.Path(self.folder.name) / "java"
        folder.mkdir()
        self.succeed(run("protoc", "-Iproto", f"-I{WELL_KNOWN}", f"--java_out={folder}", *PROTOS))
        for name in ("ClassifyRequest", "ReplaceHeadRequest", "ClassifierProto", "HeadAdminProto"):
            self.assertTrue((folder / f"dev/headswap/v1/{name}.java").exists(), name)

    def test_go_example(self):
        self.need("go", "protoc", "protoc-gen-go", "protoc-gen-go-grpc")
        folder = pathlib.Path(self.folder.name) / "go"
        shutil.copytree(ROOT / "examples/go", folder, ignore=shutil.ignore_patterns("gen"))
        outputs = [f"--{kind}_{what}" for kind in ("go", "go-grpc") for what in (f"out={folder}", "opt=module=headswap.dev")]
        self.succeed(run("protoc", "-Iproto", f"-I{WELL_KNOWN}", *outputs, *PROTOS))
        tidied = run("go", "mod", "tidy", cwd=folder)
        if tidied.returncode != 0:
            self.skipTest(f"go cannot get the modules: {tidied.stderr.strip()[-200:]}")
        self.succeed(run("go", "build", "-o", "classify", ".", cwd=folder))
        self.check_example(folder / "classify")


if __name__ == "__main__":
    unittest.main(argv=sys.argv)
