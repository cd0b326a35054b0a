//! ONNX files, written field by field.
#![allow(dead_code, reason = "each test file uses some of it")]

use bytes::Bytes;
use headswap_checkpoint::{
    Checkpoint, CheckpointError, HeadFileError, HeadOptions, ModuleKind, NormalHead, Throttle, read_head,
};
use headswap_spec::{Architecture, HeadSpec};

use super::head_fixture::{File, MAP, convolutions, spec};

/// An attribute of a node.
#[derive(Clone)]
pub enum Value {
    Int(i64),
    Ints(Vec<i64>),
    Float(f32),
    Text(&'static str),
    /// Floats of this shape.
    Tensor(Vec<usize>, Vec<f32>),
    /// A graph without nodes.
    Graph,
}

/// A model.
#[derive(Clone)]
pub struct Onnx {
    /// Fields of the graph, in order.
    pub graph: Vec<u8>,
    /// Fields of the model after the graph.
    pub rest: Vec<u8>,
    outputs: Vec<String>,
    nodes: usize,
}

pub fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

pub fn field(number: u64, bytes: &[u8]) -> Vec<u8> {
    [&varint(number << 3 | 2)[..], &varint(bytes.len() as u64), bytes].concat()
}

pub fn int(number: u64, value: i64) -> Vec<u8> {
    [varint(number << 3), varint(value as u64)].concat()
}

pub fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// A tensor of raw floats.
pub fn tensor(name: &str, shape: &[usize], values: &[f32]) -> Vec<u8> {
    [tensor_head(name, shape, 1), field(9, &floats(values))].concat()
}

/// A tensor's name, shape and type, without elements.
pub fn tensor_head(name: &str, shape: &[usize], data_type: i64) -> Vec<u8> {
    let dims = shape.iter().flat_map(|size| int(1, *size as i64));
    let dims: Vec<u8> = dims.collect();
    [dims, int(2, data_type), field(8, name.as_bytes())].concat()
}

fn attribute(name: &str, value: &Value) -> Vec<u8> {
    let value = match value {
        Value::Int(value) => int(3, *value),
        Value::Ints(values) => values.iter().flat_map(|value| int(8, *value)).collect(),
        Value::Float(value) => [&varint(2 << 3 | 5)[..], &value.to_le_bytes()].concat(),
        Value::Text(text) => field(4, text.as_bytes()),
        Value::Tensor(shape, values) => field(5, &tensor("", shape, values)),
        Value::Graph => field(6, &[]),
    };
    [field(1, name.as_bytes()), value].concat()
}

/// A ValueInfo of these sizes; zero is a size without a number.
fn value_info(name: &str, shape: &[i64]) -> Vec<u8> {
    let mut sizes = Vec::new();
    for size in shape {
        sizes.extend(field(
            1,
            &match size {
                0 => field(2, b"batch"),
                size => int(1, *size),
            },
        ));
    }
    let tensor = [int(1, 1), field(2, &sizes)].concat();
    [field(1, name.as_bytes()), field(2, &field(1, &tensor))].concat()
}

impl Onnx {
    /// A model that takes `x` of this shape, zero for an open size.
    pub fn new(shape: &[i64]) -> Self {
        Self {
            graph: field(11, &value_info("x", shape)),
            rest: Vec::new(),
            outputs: Vec::new(),
            nodes: 0,
        }
    }

    /// VGG16's convolutions with the tensors of `file`, from `x` of 224x224, channels first, to `map`.
    pub fn vgg16(file: &File) -> Self {
        Self::new(&[0, 3, 224, 224]).convolutions(file, "x")
    }

    pub fn convolutions(mut self, file: &File, from: &str) -> Self {
        let pooled = [2, 7, 14, 21, 28];
        let mut from = from.to_owned();
        for (index, _, _) in convolutions() {
            self = self.parameters(file, &format!("features.{index}"));
            let (weight, bias) = (format!("features.{index}.weight"), format!("features.{index}.bias"));
            let pads = [("pads", Value::Ints(vec![1; 4]))];
            self = self.node("Conv", &[&from, &weight, &bias], &format!("conv{index}"), &pads);
            from = format!("relu{index}");
            self = self.node("Relu", &[&format!("conv{index}")], &from, &[]);
            if pooled.contains(&index) {
                let to = if index == 28 {
                    "map".to_owned()
                } else {
                    format!("pool{index}")
                };
                self = self.max_pool(&from, &to);
                from = to;
            }
        }
        self
    }

    pub fn max_pool(self, from: &str, to: &str) -> Self {
        let two = Value::Ints(vec![2, 2]);
        self.node(
            "MaxPool",
            &[from],
            to,
            &[("kernel_shape", two.clone()), ("strides", two)],
        )
    }

    /// Adds the weight and the bias of a module of `file`.
    pub fn parameters(self, file: &File, path: &str) -> Self {
        self.copied(file, &format!("{path}.weight"))
            .copied(file, &format!("{path}.bias"))
    }

    pub fn copied(self, file: &File, name: &str) -> Self {
        let found = file.tensors.iter().find(|(other, ..)| other == name);
        let (_, shape, values) = found.unwrap_or_else(|| panic!("{name}"));
        self.tensor(name, shape, values)
    }

    /// Adds an initialiser of floats.
    pub fn tensor(mut self, name: &str, shape: &[usize], values: &[f32]) -> Self {
        self.graph.extend(field(5, &tensor(name, shape, values)));
        self
    }

    /// Adds an initialiser of integers.
    pub fn ints(mut self, name: &str, values: &[i64]) -> Self {
        let raw: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let tensor = [tensor_head(name, &[values.len()], 7), field(9, &raw)].concat();
        self.graph.extend(field(5, &tensor));
        self
    }

    /// Adds a node whose name is `n` with its number.
    pub fn node(self, operator: &str, inputs: &[&str], output: &str, attributes: &[(&str, Value)]) -> Self {
        self.node_of("", operator, inputs, output, attributes)
    }

    pub fn node_of(
        mut self,
        domain: &str,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attributes: &[(&str, Value)],
    ) -> Self {
        let mut node = Vec::new();
        for input in inputs {
            node.extend(field(1, input.as_bytes()));
        }
        for output in output.split(' ') {
            node.extend(field(2, output.as_bytes()));
        }
        node.extend(field(3, format!("n{}", self.nodes).as_bytes()));
        node.extend(field(4, operator.as_bytes()));
        for (name, value) in attributes {
            node.extend(field(5, &attribute(name, value)));
        }
        node.extend(field(7, domain.as_bytes()));
        self.graph.extend(field(1, &node));
        self.nodes += 1;
        self
    }

    /// Adds a Gemm with the tensors of `file`.
    pub fn gemm(self, file: &File, path: &str, from: &str, to: &str) -> Self {
        let (weight, bias) = (format!("{path}.weight"), format!("{path}.bias"));
        self.parameters(file, path)
            .node("Gemm", &[from, &weight, &bias], to, &[("transB", Value::Int(1))])
    }

    /// Adds a Dense as tf2onnx writes it: MatMul with a kernel of (in, out), and Add.
    pub fn dense(self, file: &File, path: &str, from: &str, to: &str) -> Self {
        let weight = file.values(&format!("{path}.weight"));
        let bias = file.values(&format!("{path}.bias"));
        let (rows, columns) = (bias.len(), weight.len() / bias.len());
        let (kernel, product) = (format!("{to}/kernel"), format!("{to}/MatMul"));
        self.tensor(&kernel, &[columns, rows], &turned(&weight, columns))
            .tensor(&format!("{to}/bias"), &[rows], &bias)
            .node("MatMul", &[from, &kernel], &product, &[])
            .node("Add", &[&product, &format!("{to}/bias")], to, &[])
    }

    pub fn flatten(self, from: &str, to: &str) -> Self {
        self.node("Flatten", &[from], to, &[])
    }

    /// The file with this output.
    pub fn bytes(&self, output: &str) -> Vec<u8> {
        let mut outputs = Vec::new();
        for output in self.outputs.iter().map(String::as_str).chain([output]) {
            outputs.extend(field(12, &value_info(output, &[0, 1])));
        }
        let graph = [&self.graph[..], &outputs].concat();
        [&int(1, 8)[..], &field(2, b"test"), &field(7, &graph), &self.rest].concat()
    }

    /// Adds an output before that of [`Onnx::bytes`].
    pub fn output(mut self, name: &str) -> Self {
        self.outputs.push(name.to_owned());
        self
    }

    pub fn open(&self, output: &str) -> Result<Checkpoint, CheckpointError> {
        Checkpoint::from_bytes(Bytes::from(self.bytes(output)))
    }

    pub fn read(&self, output: &str, spec: Option<&HeadSpec>) -> Result<NormalHead, HeadFileError> {
        let throttle = Throttle::off();
        let options = HeadOptions {
            architecture: Architecture::Vgg16Narrow,
            spec,
            labels: &[],
            throttle: &throttle,
        };
        read_head(&self.open(output)?, &options)
    }

    /// The kinds of the modules after the first `skipped`.
    pub fn kinds(&self, output: &str, skipped: usize) -> Vec<ModuleKind> {
        let checkpoint = self.open(output).unwrap();
        let modules = checkpoint.modules().iter().skip(skipped);
        modules.map(|module| module.kind.clone()).collect()
    }

    /// Checks that the file is refused with one short line that holds all `parts`.
    pub fn refused(&self, output: &str, parts: &[&str]) {
        let error = match self.read(output, None) {
            Ok(head) => panic!("accepted as {:?} {:?}", head.input, head.layers),
            Err(error) => error.to_string(),
        };
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        assert!(error.lines().count() == 1 && error.len() < 400, "{error}");
    }
}

/// A row-major matrix of so many columns, turned round.
pub fn turned(values: &[f32], columns: usize) -> Vec<f32> {
    let rows = values.len() / columns;
    let mut turned = Vec::with_capacity(values.len());
    for column in 0..columns {
        for row in 0..rows {
            turned.push(values[row * columns + column]);
        }
    }
    turned
}

/// Checks that both files are the same head.
pub fn same(onnx: &Onnx, output: &str, file: &File, keys: &str) {
    let read = onnx.read(output, None).unwrap();
    let expected = file.read(Some(&spec(keys))).unwrap();
    assert_eq!(
        read.parameters.keys().collect::<Vec<_>>(),
        expected.parameters.keys().collect::<Vec<_>>()
    );
    for (name, tensor) in &read.parameters {
        assert_eq!(tensor, &expected.parameters[name], "{name}");
    }
    assert_eq!((&read.layers, read.rows), (&expected.layers, expected.rows));
}

/// VGG16's convolutions, and a Linear on its flattened map.
pub fn flat(classes: usize) -> File {
    File::convolutions().linear("fc", classes, MAP)
}
