//! Finds VGG16's convolutions among a file's modules, by their order and shapes.

use headswap_spec::{Architecture, LayerKind, Step};

use super::error::HeadFileError;
use super::modules::Modules;
use super::part::{Part, PartKind, is_within, quoted};

/// The convolutions that a file has.
#[derive(Debug, Default)]
pub(super) struct Network {
    /// What their widths say; `None` without convolutions.
    pub architecture: Option<Architecture>,
    /// In order.
    pub convolutions: Vec<Convolution>,
    /// The dotted path that they share; empty if they share none.
    pub container: String,
    /// True if all are there.
    pub whole: bool,
}

/// A convolution, by the indices of its modules.
#[derive(Debug)]
pub(super) struct Convolution {
    /// torchvision's name: `features.0`.
    pub name: String,
    pub part: usize,
    /// The batch norm that follows.
    pub norm: Option<usize>,
}

/// The widths of the other VGGs' convolutions, as multiples of the first one's.
const OTHERS: [(&str, &[usize]); 3] = [
    ("vgg11", &[1, 2, 4, 4, 8, 8, 8, 8]),
    ("vgg13", &[1, 1, 2, 2, 4, 4, 8, 8, 8, 8]),
    ("vgg19", &[1, 1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 8, 8, 8, 8]),
];

/// Parts of names that tell other networks.
const MARKS: [(&str, &str); 10] = [
    ("layer1.0.", "a ResNet"),
    ("denseblock", "a DenseNet"),
    ("Mixed_", "an Inception network"),
    ("inception", "an Inception network"),
    ("patch_embed", "a vision transformer"),
    ("conv_proj", "a vision transformer"),
    ("squeeze.", "a SqueezeNet"),
    ("conv_stem", "an EfficientNet"),
    ("_conv_head", "an EfficientNet"),
    ("downsample", "a ResNet"),
];

/// Limit of the networks that one message lists.
const PREFIXES_MAX: usize = 8;

const ARCHITECTURES: [Architecture; 2] = [Architecture::Vgg16, Architecture::Vgg16Narrow];

/// Returns VGG16's convolutions.
pub(super) fn steps(architecture: Architecture) -> Vec<Step> {
    let mut steps = architecture.steps();
    steps.retain(Step::is_convolution);
    steps
}

/// The last convolution's outputs, the channels of the map that heads stand on.
pub(super) fn channels(architecture: Architecture) -> usize {
    match steps(architecture).last().map(|step| step.kind) {
        Some(LayerKind::Conv { output, .. }) => output,
        _ => 0,
    }
}

/// The name by which messages and `inspect` call it.
pub(super) fn architecture_name(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::Vgg16 => "vgg16",
        Architecture::Vgg16Narrow => "vgg16-narrow",
    }
}

/// Finds the convolutions and their batch norms.
///
/// # Errors
/// [`HeadFileError`] names another network, or the prefixes of several.
pub(super) fn find(parts: &[Part<'_>], modules: &Modules<'_>) -> Result<Network, HeadFileError> {
    let mut runs: Vec<Vec<usize>> = Vec::new();
    // Convolutions before the first that takes a picture: a part of VGG16's, or another network's.
    let mut before = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let PartKind::Conv { input, .. } = part.kind else {
            continue;
        };
        match runs.last_mut() {
            _ if input == 3 => runs.push(vec![index]),
            Some(run) => run.push(index),
            None => before.push(index),
        }
    }
    if runs.is_empty() && !before.is_empty() {
        runs.push(before);
    }
    match &runs[..] {
        [] => Ok(Network::default()),
        [run] => match whole(parts, run).or_else(|| partial(parts, run)) {
            Some(network) if modules.is_graph() => Ok(with_next_norms(parts, modules, network)),
            Some(network) => with_norms(parts, network),
            None => Err(HeadFileError::Network {
                network: name_of(parts, run),
            }),
        },
        _ => Err(HeadFileError::Several {
            prefixes: prefixes(parts, &runs),
        }),
    }
}

/// All thirteen convolutions, whatever their names; convolutions after them are not placed.
fn whole(parts: &[Part<'_>], run: &[usize]) -> Option<Network> {
    for architecture in ARCHITECTURES {
        let steps = steps(architecture);
        let Some(run) = run.get(..steps.len()) else { continue };
        if steps.iter().zip(run).all(|(step, part)| is_step(&parts[*part], step)) {
            let convolutions = steps.into_iter().zip(run).map(|(step, part)| Convolution {
                name: step.name,
                part: *part,
                norm: None,
            });
            return Some(Network {
                architecture: Some(architecture),
                convolutions: convolutions.collect(),
                container: common_path(run.iter().map(|part| parts[*part].path)),
                whole: true,
            });
        }
    }
    None
}

/// Some of the convolutions, under torchvision's names.
fn partial(parts: &[Part<'_>], run: &[usize]) -> Option<Network> {
    for architecture in ARCHITECTURES {
        let steps = steps(architecture);
        let mut convolutions = Vec::new();
        for &index in run {
            let step = steps.iter().find(|step| is_named(parts[index].path, &step.name));
            if let Some(step) = step.filter(|step| is_step(&parts[index], step)) {
                convolutions.push(Convolution {
                    name: step.name.clone(),
                    part: index,
                    norm: None,
                });
            }
        }
        if convolutions.len() == run.len() {
            return Some(Network {
                architecture: Some(architecture),
                convolutions,
                ..Network::default()
            });
        }
    }
    None
}

/// Returns true if `path` ends with `name`; PyTorch's ImageNet example puts `module` within it.
pub(super) fn is_named(path: &str, name: &str) -> bool {
    let wrapped = name.replacen('.', ".module.", 1);
    [name, &wrapped].into_iter().any(|name| {
        path.strip_suffix(name)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    })
}

fn is_step(part: &Part<'_>, step: &Step) -> bool {
    match (part.kind, step.kind) {
        (PartKind::Conv { output, input, kernel }, LayerKind::Conv { input: i, output: o }) => {
            (input, output, kernel) == (i, o, [3, 3])
        }
        _ => false,
    }
}

/// Gives each convolution of vgg16_bn its batch norm: thirteen within the convolutions' module, or the first thirteen in a
/// row that have their widths.
fn with_norms(parts: &[Part<'_>], mut network: Network) -> Result<Network, HeadFileError> {
    let mut norms = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        if let PartKind::BatchNorm { width } = part.kind
            && is_within(part.path, &network.container)
        {
            norms.push((index, width));
        }
    }
    if !network.whole || norms.is_empty() {
        return Ok(network);
    }
    let mut widths = Vec::new();
    for convolution in &network.convolutions {
        if let PartKind::Conv { output, .. } = parts[convolution.part].kind {
            widths.push(output);
        }
    }
    let count = widths.len();
    let window = norms
        .windows(count)
        .find(|window| window.iter().map(|(_, width)| *width).eq(widths.iter().copied()));
    match window {
        Some(window) => {
            for (convolution, (index, _)) in network.convolutions.iter_mut().zip(window) {
                convolution.norm = Some(*index);
            }
            Ok(network)
        }
        // They follow the convolutions, so they are the head's.
        None if network.container.is_empty() || network.convolutions.iter().all(|c| c.part < norms[0].0) => Ok(network),
        None => Err(HeadFileError::Unplaced {
            name: parts[norms[0].0].name(),
            shape: format!(" [{}]", norms[0].1),
        }),
    }
}

/// Gives each convolution of a graph the batch norm that is the next step.
fn with_next_norms(parts: &[Part<'_>], modules: &Modules<'_>, mut network: Network) -> Network {
    for convolution in &mut network.convolutions {
        let place = modules.place(parts[convolution.part].path);
        let next = parts.get(convolution.part + 1).filter(|next| {
            let is_norm = matches!(next.kind, PartKind::BatchNorm { .. } | PartKind::Affine { .. });
            is_norm && place.is_some_and(|place| modules.place(next.path) == Some(place + 1))
        });
        convolution.norm = next.map(|_| convolution.part + 1);
    }
    network
}

/// The dotted path that all paths begin with.
pub(super) fn common_path<'a>(paths: impl Iterator<Item = &'a str>) -> String {
    let mut common: Option<Vec<&str>> = None;
    for path in paths {
        let components: Vec<&str> = path.split('.').collect();
        let shared = match common {
            None => components.len() - 1,
            Some(ref common) => common.iter().zip(&components).take_while(|(a, b)| a == b).count(),
        };
        common = Some(components[..shared].to_vec());
    }
    common.unwrap_or_default().join(".")
}

/// The prefixes by which several networks' convolutions differ.
fn prefixes(parts: &[Part<'_>], runs: &[Vec<usize>]) -> String {
    let mut paths = Vec::new();
    for run in runs.iter().take(PREFIXES_MAX) {
        paths.push(common_path(run.iter().map(|part| parts[*part].path)));
    }
    let mut components: Vec<Vec<&str>> = paths.iter().map(|path| path.split('.').collect()).collect();
    while components.iter().all(|path| path.len() > 1 || path == &["features"])
        && components.windows(2).all(|pair| pair[0].last() == pair[1].last())
    {
        for path in &mut components {
            path.pop();
        }
    }
    let mut names = Vec::new();
    for path in components {
        names.push(match path.join(".") {
            none if none.is_empty() => "no prefix".to_owned(),
            prefix => format!("`{}`", quoted(&prefix)),
        });
    }
    names.join(" and ")
}

/// The kind of network that the names tell, other than VGG.
fn mark(parts: &[Part<'_>]) -> Option<String> {
    for part in parts {
        let name = part.names().into_iter().next().unwrap_or_default();
        if let Some((_, network)) = MARKS.iter().find(|(mark, _)| name.contains(mark)) {
            return Some((*network).to_owned());
        }
    }
    None
}

/// The name of a network that is not VGG16.
fn name_of(parts: &[Part<'_>], run: &[usize]) -> String {
    let mut outputs = Vec::new();
    for &index in run {
        if let PartKind::Conv {
            output, kernel: [3, 3], ..
        } = parts[index].kind
        {
            outputs.push(output);
        }
    }
    let first = outputs.first().copied().unwrap_or(1);
    for (name, multiples) in OTHERS {
        if multiples
            .iter()
            .map(|multiple| multiple * first)
            .eq(outputs.iter().copied())
        {
            return name.to_owned();
        }
    }
    if let Some(network) = mark(parts) {
        return network;
    }
    match parts[run[0]].kind {
        PartKind::Conv { kernel: [11, 11], .. } => "an AlexNet".to_owned(),
        _ => format!(
            "another network, of {} convolutions from {}",
            run.len(),
            parts[run[0]].describe()
        ),
    }
}
