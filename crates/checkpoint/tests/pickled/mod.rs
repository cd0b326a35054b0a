//! Whole pickled networks of the narrow architecture, made in memory as PyTorch before 1.6 writes them.
#![allow(dead_code, reason = "each test file uses some of it")]

use bytes::Bytes;
use headswap_checkpoint::{
    Checkpoint, HeadFileError, HeadOptions, Inspection, NormalHead, Throttle, inspect_head, read_head,
};
use headswap_spec::{Architecture, HeadSpec};

use crate::head_fixture::{File, convolutions};

/// An attribute of a module.
#[derive(Clone, Debug)]
pub enum Attribute {
    Int(i32),
    Float(f64),
    Pair(i32, i32),
}

/// The attributes of a module, by name.
type Attributes = Vec<(&'static str, Attribute)>;

/// A network: its modules by path, each with its class and its attributes, and their tensors.
#[derive(Clone, Default)]
pub struct Pickled {
    modules: Vec<(String, String, Attributes)>,
    pub tensors: File,
}

impl Pickled {
    /// A network whose class is `class`; `Sequential`, `Linear` and other names without a dot are PyTorch's.
    pub fn new(class: &str) -> Self {
        Self::default().module("", class, &[])
    }

    /// torchvision's VGG, with a classifier of these modules.
    pub fn vgg16(classifier: &[(&str, Tensors)]) -> Self {
        Self::new("torchvision.models.vgg.VGG")
            .convolutions("features")
            .module(
                "avgpool",
                "AdaptiveAvgPool2d",
                &[("output_size", Attribute::Pair(7, 7))],
            )
            .sequential("classifier", classifier)
    }

    /// Adds a module. Its parents must be there.
    pub fn module(mut self, path: &str, class: &str, attributes: &[(&'static str, Attribute)]) -> Self {
        let class = match class {
            _ if class.contains('.') => class.to_owned(),
            class => format!("torch.nn.modules.any.{class}"),
        };
        self.modules.push((path.to_owned(), class, attributes.to_vec()));
        self
    }

    /// Adds a module with tensors.
    pub fn with(self, path: &str, class: &str, tensors: Tensors) -> Self {
        let mut this = self.module(path, class, &[]);
        let name = |leaf: &str| match path {
            "" => leaf.to_owned(),
            path => format!("{path}.{leaf}"),
        };
        this.tensors = match tensors {
            Tensors::None => this.tensors,
            Tensors::Linear(output, input) => this
                .tensors
                .with(&name("weight"), &[output, input])
                .with(&name("bias"), &[output]),
            Tensors::Weight(output, input) => this.tensors.with(&name("weight"), &[output, input]),
        };
        this
    }

    /// Adds a Sequential of these modules, numbered from 0.
    pub fn sequential(self, path: &str, modules: &[(&str, Tensors)]) -> Self {
        let mut this = self.module(path, "Sequential", &[]);
        for (index, (class, tensors)) in modules.iter().enumerate() {
            this = this.with(&format!("{path}.{index}"), class, *tensors);
        }
        this
    }

    /// Adds VGG16's convolutions, with their ReLUs and poolings.
    pub fn convolutions(self, path: &str) -> Self {
        let mut this = self.module(path, "Sequential", &[]);
        let convolutions = convolutions();
        for (at, (index, input, output)) in convolutions.iter().enumerate() {
            let next = convolutions.get(at + 1).map_or(31, |(next, ..)| *next);
            let padding = [("padding", Attribute::Pair(1, 1))];
            this = this.module(&format!("{path}.{index}"), "Conv2d", &padding);
            this.tensors = this
                .tensors
                .with(&format!("{path}.{index}.weight"), &[*output, *input, 3, 3])
                .with(&format!("{path}.{index}.bias"), &[*output]);
            this = this.module(&format!("{path}.{}", index + 1), "ReLU", &[]);
            if index + 2 < next {
                this = this.module(&format!("{path}.{}", index + 2), "MaxPool2d", &[]);
            }
        }
        this
    }

    /// Gives a module another class.
    pub fn set_class(&mut self, path: &str, class: &str) {
        let module = self.modules.iter_mut().find(|(other, ..)| other == path).unwrap();
        module.1 = format!("torch.nn.modules.any.{class}");
    }

    pub fn checkpoint(&self) -> Checkpoint {
        let mut file = HEAD.to_vec();
        self.write(&mut file, "");
        let values: Vec<f32> = self
            .tensors
            .tensors
            .iter()
            .flat_map(|(.., values)| values.clone())
            .collect();
        end(&mut file, &values);
        Checkpoint::from_bytes(Bytes::from(file)).unwrap()
    }

    pub fn inspect(&self) -> Result<Inspection, HeadFileError> {
        inspect_head(&self.checkpoint(), None)
    }

    pub fn read(&self, spec: Option<&HeadSpec>) -> Result<NormalHead, HeadFileError> {
        let throttle = Throttle::off();
        let options = HeadOptions {
            architecture: Architecture::Vgg16Narrow,
            spec,
            labels: &[],
            throttle: &throttle,
        };
        read_head(&self.checkpoint(), &options)
    }

    /// Checks that it is refused with a message of one line that holds all `parts`.
    pub fn refused(&self, spec: Option<&HeadSpec>, parts: &[&str]) {
        let error = match self.read(spec) {
            Ok(head) => panic!("accepted as {:?} {:?}", head.input, head.layers),
            Err(error) => error.to_string(),
        };
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        assert_eq!(error.lines().count(), 1, "{error}");
    }

    /// Writes the module at a path as an object with its state.
    fn write(&self, file: &mut Vec<u8>, path: &str) {
        let (_, class, attributes) = self.modules.iter().find(|(other, ..)| other == path).unwrap();
        let (module, name) = class.rsplit_once('.').unwrap();
        file.extend(format!("c{module}\n{name}\n").as_bytes());
        file.extend(b")\x81}(");
        file.extend(text("_parameters"));
        file.extend(b"}(");
        let mut offset = 0;
        for (name, shape, values) in &self.tensors.tensors {
            let (around, leaf) = name.rsplit_once('.').unwrap_or(("", name));
            if around == path {
                file.extend(text(leaf));
                file.extend(tensor(offset, shape, self.elements()));
            }
            offset += values.len();
        }
        file.push(b'u');
        file.extend(text("_modules"));
        file.extend(b"}(");
        for (child, ..) in &self.modules {
            let (around, leaf) = child.rsplit_once('.').unwrap_or(("", child));
            if around == path && !child.is_empty() {
                file.extend(text(leaf));
                self.write(file, child);
            }
        }
        file.push(b'u');
        for (name, attribute) in attributes {
            file.extend(text(name));
            match attribute {
                Attribute::Int(number) => file.extend(int(*number)),
                Attribute::Float(number) => file.extend([b"G", &number.to_be_bytes()[..]].concat()),
                Attribute::Pair(first, second) => file.extend(tuple(&[*first, *second])),
            }
        }
        file.extend(b"ub");
    }

    fn elements(&self) -> usize {
        self.tensors.tensors.iter().map(|(.., values)| values.len()).sum()
    }
}

/// A state dict of tensors that repeat one number.
pub fn repeated(tensors: &[(String, Vec<usize>)]) -> Checkpoint {
    let mut file = HEAD.to_vec();
    file.extend(b"}(");
    for (name, shape) in tensors {
        file.extend(text(name));
        file.extend(view(0, shape, &vec![0; shape.len()], 1));
    }
    file.push(b'u');
    end(&mut file, &[0.5]);
    Checkpoint::from_bytes(Bytes::from(file)).unwrap()
}

/// What comes before the network: the format's number, its version, and a description of the system.
const HEAD: &[u8] = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}.\x80\x02";

/// Writes the keys of the storages, and the only storage.
fn end(file: &mut Vec<u8>, values: &[f32]) {
    file.extend(b".\x80\x02](X\x01\0\0\0\x30e.");
    file.extend((values.len() as u64).to_le_bytes());
    file.extend(values.iter().flat_map(|value| value.to_le_bytes()));
}

/// The tensors of a module.
#[derive(Clone, Copy, Debug)]
pub enum Tensors {
    None,
    /// A weight and a bias: outputs and inputs.
    Linear(usize, usize),
    /// A weight alone.
    Weight(usize, usize),
}

fn text(text: &str) -> Vec<u8> {
    [b"X", &(text.len() as u32).to_le_bytes()[..], text.as_bytes()].concat()
}

fn int(value: i32) -> Vec<u8> {
    [b"J", &value.to_le_bytes()[..]].concat()
}

fn tuple(values: &[i32]) -> Vec<u8> {
    let mut tuple = b"(".to_vec();
    for value in values {
        tuple.extend(int(*value));
    }
    tuple.push(b't');
    tuple
}

/// A contiguous tensor of the only storage, which has so many elements.
fn tensor(offset: usize, shape: &[usize], elements: usize) -> Vec<u8> {
    let strides: Vec<i32> = (0..shape.len())
        .map(|at| shape[at + 1..].iter().product::<usize>() as i32)
        .collect();
    view(offset, shape, &strides, elements)
}

/// A view of the only storage, which has so many elements.
fn view(offset: usize, shape: &[usize], strides: &[i32], elements: usize) -> Vec<u8> {
    let sizes: Vec<i32> = shape.iter().map(|size| *size as i32).collect();
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec(),
        text("storage"),
        b"ctorch\nFloatStorage\n".to_vec(),
        text("0"),
        text("cpu"),
        int(elements as i32),
        b"tQ".to_vec(),
        int(offset as i32),
        tuple(&sizes),
        tuple(strides),
        b"\x89NtR".to_vec(),
    ]
    .concat()
}
