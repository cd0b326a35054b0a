//! The reasons for which a head's file is refused.

use std::io;

use headswap_spec::{LABEL_BYTES_MAX, LAYERS_MAX, SpecError};

use crate::CheckpointError;

/// What is wrong with a head's file or with its spec. Every message is one line without the path.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each field is the value that its message prints")]
pub enum HeadFileError {
    /// The file could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The spec in the file's metadata is not a spec.
    #[error("the file's `headswap.spec` is not a head spec: {0}; give --spec, or convert the file again")]
    Spec(#[from] SpecError),
    /// The file's own first layers do not fit the preprocessing.
    #[error("{0}")]
    Preprocessing(SpecError),
    /// The file's pictures have another size.
    #[error(
        "the file's pictures are {file}, and \"preprocessing\" makes them {given}; give the file's size ({{\"stretch\": {example}}})"
    )]
    PictureSize {
        file: String,
        given: String,
        example: String,
    },
    /// The network is not that of the server.
    #[error("the file holds {found}, and {expected} is expected; give a head of that architecture")]
    Architecture { found: String, expected: String },
    /// The file holds another network.
    #[error("the file holds {network}, not VGG16; fine-tune torchvision's vgg16 or vgg16_bn and give that file")]
    Network { network: String },
    /// The file holds several networks.
    #[error("the file holds several networks, under {prefixes}; choose one with --tensors KEY")]
    Several { prefixes: String },
    /// Nothing in the file has the key that was chosen.
    #[error(
        "the file has neither a dictionary nor names of tensors under {key}; `headswap head inspect` lists what it has"
    )]
    NoSuchKey { key: String },
    /// A layer of the file is of a kind that heads do not have.
    #[error("{name} is a {class}, which heads do not have; train the head without it")]
    Unsupported { name: String, class: String },
    /// The file holds no Linear.
    #[error(
        "the file holds {held} and no Linear, so it is not a head; save the whole model.state_dict(), its classifier included"
    )]
    NoLinear { held: String },
    /// torchvision's weights without a classifier.
    #[error(
        "{name} holds NaN: IMAGENET1K_FEATURES has no classifier; give fine-tuned weights, or torchvision's IMAGENET1K_V1"
    )]
    FeaturesOnly { name: String },
    /// A tensor within the network that the network does not have.
    #[error("{name}{shape} has no place in VGG16 or its head; leave it out, or train the head without it")]
    Unplaced { name: String, shape: String },
    /// Weights that are not stored as they are used.
    #[error("{name} belongs to {kind}; {remedy}")]
    Altered {
        name: String,
        kind: &'static str,
        remedy: &'static str,
    },
    /// A weight with its dimensions swapped.
    #[error(
        "{name} has shape {got:?} where [out, in] is expected: transposed? Turn it round with \
         `state[\"{name}\"] = state[\"{name}\"].T`"
    )]
    Transposed { name: String, got: Vec<usize> },
    /// Tensors of one module that contradict each other.
    #[error("{name} has shape {got:?}; {expected:?} is expected; save the file again")]
    Shape {
        name: String,
        got: Vec<usize>,
        expected: Vec<usize>,
    },
    /// Layers whose widths do not follow each other.
    #[error(
        "{first} returns {returned} values and the next layer, {second}, takes {taken}; rename them in the order of the \
         network, leave out those of another, or choose one with --tensors KEY"
    )]
    Chain {
        first: String,
        returned: usize,
        second: String,
        taken: usize,
    },
    /// A module of the backbone that computes something else than VGG16's.
    #[error(
        "{name} is of class {class} where VGG16 has {expected}; fine-tune torchvision's vgg16 or vgg16_bn without changes to \
         its features, or save model.state_dict() if it computes the same"
    )]
    Backbone {
        name: String,
        class: String,
        expected: &'static str,
    },
    /// Several heads on one backbone.
    #[error("the file holds several heads, {heads}; leave out all but one, or choose one with --tensors KEY")]
    SeveralHeads { heads: String },
    /// Where the head stands is not known.
    #[error("{name} takes {width} values, {meaning}; give \"input\" in its spec (--input or --spec)")]
    Input {
        name: String,
        width: usize,
        meaning: String,
    },
    /// The head's first layer does not fit its input.
    #[error(
        "{name} takes {width} values, and the input {input} has {expected}; give another \"input\" in its spec (--input or --spec)"
    )]
    InputWidth {
        name: String,
        width: usize,
        input: String,
        expected: String,
    },
    /// An input that a graph does not compute.
    #[error("\"input\" is `{given}` and the file's network computes `{said}`; leave \"input\" out")]
    GraphInput { given: &'static str, said: &'static str },
    /// Layers that a graph does not compute.
    #[error("\"layers\" is {given} and the file's network computes {said}; leave \"layers\" out")]
    GraphLayers { given: String, said: String },
    /// An output that a graph does not compute.
    #[error("\"output\" is {given} and the file's network ends in a {said}; give that, or leave \"output\" out")]
    GraphOutput { given: &'static str, said: &'static str },
    /// A graph that ends as no head does.
    #[error(
        "the file's network computes more after its probabilities, or between its Linears, than heads do; train the head \
         without it"
    )]
    GraphEnd,
    /// What lies between the Linears is not known.
    #[error(
        "the file does not say which activations lie between {modules}; give \"layers\" in its spec (--layers or --spec)"
    )]
    Layers { modules: String },
    /// Modules whose class is not known, or whose place is not.
    #[error(
        "the file has {modules} between its convolutions and its output, and does not say what is computed there; give {keys} \
         in its spec ({flags}), or train the head without it"
    )]
    Unread {
        modules: String,
        keys: &'static str,
        flags: &'static str,
    },
    /// The spec has more or fewer layers of a kind than the file.
    #[error("\"layers\" has {spec} {kind} and the file has {file}: {modules}{hint}; make them agree")]
    Counts {
        kind: &'static str,
        spec: usize,
        file: usize,
        modules: String,
        hint: &'static str,
    },
    /// More layers than a spec may have.
    #[error("the head has {layers} layers; the limit is {LAYERS_MAX}: train a head with fewer")]
    TooManyLayers { layers: usize },
    /// Tensors that are much larger than their file.
    #[error(
        "the head's tensors have {elements} elements, and a file of {bytes} bytes may have {elements_max}; save dense, \
         contiguous tensors (`tensor.clone()`) without compression"
    )]
    TooLarge {
        elements: u64,
        bytes: u64,
        elements_max: u64,
    },
    /// More rows than the receiver takes.
    #[error("its last Linear has {rows} outputs; 1 to {rows_max} are accepted")]
    Rows { rows: usize, rows_max: usize },
    /// More classes than rows.
    #[error("\"classes\" is {classes} and the last Linear has {rows} rows; give at most as many")]
    Classes { classes: usize, rows: usize },
    /// A softmax over a single output.
    #[error(
        "a softmax over one output is 1 for every picture; give the output sigmoid (a probability) or linear (a value)"
    )]
    OneOutput,
    /// Groups of different sizes.
    #[error("{classes} classes are not {groups} groups of equal size; give another \"output\"")]
    Groups { classes: usize, groups: usize },
    /// Labels that do not fit.
    #[error("there are {labels} labels and {classes} classes; give one label for each class, or \"classes\"")]
    Labels { labels: usize, classes: usize },
    /// A label of the file that is too long.
    #[error(
        "a label has {bytes} bytes; the limit is {LABEL_BYTES_MAX}; shorten it, or give other labels in its spec (--labels or --spec)"
    )]
    LabelBytes { bytes: usize },
    /// A backbone without some of its parameters.
    #[error("the file lacks {name}; a whole VGG16 is expected")]
    Incomplete { name: String },
    /// Numbers that overflow when layers are joined.
    #[error("{name} is not finite after its batch norm, mask or norm was folded in; save finite weights")]
    NotFinite { name: String },
    /// A head could not be written.
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}
