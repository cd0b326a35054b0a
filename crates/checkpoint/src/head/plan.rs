//! A head's file understood: what each tensor is, before any is read.

use headswap_spec::{Architecture, Framework, HeadInput, LAYERS_MAX, PartialSpec};

use super::budget;
use super::error::HeadFileError;
use super::found::{self, Found, Search, input_width};
use super::modules::Modules;
use super::network::{self, Network, architecture_name, channels, common_path, is_named};
use super::part::{self, Part, PartKind, is_within};
use super::stored::Stored;
use super::unread::{HeadPath, Unread};
use crate::{Checkpoint, ModuleKind, TensorEntry, excerpt};

/// What each tensor of a file is.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub parts: Vec<Part<'a>>,
    pub network: Network,
    pub architecture: Architecture,
    /// What wrote the file.
    pub framework: Framework,
    pub found: Found,
    pub modules: Modules<'a>,
    /// Parameters of the backbone that are alone in the file, with torchvision's names.
    pub alone: Vec<(String, &'a TensorEntry)>,
    pub prefixes: Vec<String>,
    pub left_out: Vec<String>,
}

/// Names that wrappers put around a network.
const WRAPPERS: [&str; 5] = ["module", "_orig_mod", "_forward_module", "model", "net"];

/// Understands a file. Without an architecture the one that fits is taken.
///
/// # Errors
/// [`HeadFileError`] for what is not a head of VGG16.
pub(super) fn plan<'a>(
    checkpoint: &'a Checkpoint,
    architecture: Option<Architecture>,
    spec: &PartialSpec,
) -> Result<Plan<'a>, HeadFileError> {
    let modules = Modules::new(checkpoint.modules(), checkpoint.graph().is_some());
    let parts = part::parts(checkpoint, &modules)?;
    let network = network::find(&parts, &modules)?;
    let architecture = agreed(&parts, &network, architecture, &modules)?;
    let search = Search {
        parts: &parts,
        network: &network,
        modules: &modules,
        architecture,
        framework: checkpoint.format().framework(),
        input: spec.input,
    };
    let found = match found::find(search) {
        Err(HeadFileError::NoLinear { .. }) if parts.iter().all(|part| part.kind == PartKind::Other) => {
            return Err(HeadFileError::NoLinear {
                held: "no module of VGG16".to_owned(),
            });
        }
        found => found?,
    };
    if found.layers.len() > LAYERS_MAX {
        return Err(HeadFileError::TooManyLayers {
            layers: found.layers.len(),
        });
    }
    for &index in &found.layers {
        supported(&parts[index], checkpoint)?;
    }
    check_backbone(&parts, &network, &modules)?;
    let prefixes = prefixes(&parts, &network, &found);
    let mut plan = Plan {
        parts,
        network,
        architecture,
        framework: checkpoint.format().framework(),
        found,
        modules,
        alone: Vec::new(),
        prefixes,
        left_out: Vec::new(),
    };
    plan.place_others()?;
    let used = plan.used().into_iter().map(|index| &plan.parts[index]);
    budget::check(checkpoint, used, plan.alone.iter().map(|(_, entry)| *entry))?;
    Ok(plan)
}

/// Refuses vectors that a module of the file says to be other than a batch norm's, such as a layer norm's.
fn supported(part: &Part<'_>, checkpoint: &Checkpoint) -> Result<(), HeadFileError> {
    if !matches!(part.kind, PartKind::Affine { .. }) {
        return Ok(());
    }
    let mut modules = checkpoint.modules().iter();
    match modules
        .find(|module| module.path == part.path)
        .map(|module| &module.kind)
    {
        Some(ModuleKind::Other(class)) => Err(HeadFileError::Unsupported {
            name: excerpt(part.path),
            class: excerpt(class),
        }),
        _ => Ok(()),
    }
}

/// Checks that a network whose modules are in the file computes what VGG16 computes.
fn check_backbone(parts: &[Part<'_>], network: &Network, modules: &Modules<'_>) -> Result<(), HeadFileError> {
    let Some(architecture) = network.architecture.filter(|_| network.whole) else {
        return Ok(());
    };
    let mut convolutions = Vec::new();
    for (convolution, step) in network.convolutions.iter().zip(network::steps(architecture)) {
        convolutions.push((parts[convolution.part].path, step.pool));
    }
    modules.check_convolutions(&convolutions)
}

/// The architecture that the file and the server agree on.
fn agreed(
    parts: &[Part<'_>],
    network: &Network,
    expected: Option<Architecture>,
    modules: &Modules<'_>,
) -> Result<Architecture, HeadFileError> {
    match (network.architecture, expected) {
        (Some(found), Some(expected)) if found != expected => Err(HeadFileError::Architecture {
            found: architecture_name(found).to_owned(),
            expected: architecture_name(expected).to_owned(),
        }),
        (Some(architecture), _) | (None, Some(architecture)) => Ok(architecture),
        (None, None) => Ok(by_widths(parts, modules)),
    }
}

/// The architecture on which a head alone can stand.
fn by_widths(parts: &[Part<'_>], modules: &Modules<'_>) -> Architecture {
    let inputs = [
        HeadInput::Adaptive7x7,
        HeadInput::Features,
        HeadInput::GlobalMaxAverage,
        HeadInput::GlobalAverage,
    ];
    let linear = parts.iter().find(|part| part.linear().is_some());
    let first = linear.map_or(0, Part::input);
    let said = linear.and_then(|linear| modules.input(linear.path));
    let is_flat = matches!(said, Some(HeadInput::Flatten | HeadInput::FlattenHwc));
    for architecture in [Architecture::Vgg16, Architecture::Vgg16Narrow] {
        let is_width = inputs
            .into_iter()
            .any(|input| input_width(architecture, input) == Some(first));
        if is_width || is_flat && first.is_multiple_of(channels(architecture)) {
            return architecture;
        }
    }
    Architecture::Vgg16
}

impl<'a> Plan<'a> {
    /// The head's own parts, in order.
    pub fn head(&self) -> Vec<&Part<'a>> {
        self.found.layers.iter().map(|index| &self.parts[*index]).collect()
    }

    /// The head's first Linear, whose width says where the head stands.
    pub fn first_linear(&self) -> Option<&Part<'a>> {
        self.head().into_iter().find(|part| part.linear().is_some())
    }

    /// The rows of the last Linear.
    pub fn rows(&self) -> usize {
        let head = self.head();
        head.iter()
            .rev()
            .find_map(|part| part.linear())
            .map_or(0, |(_, output)| output)
    }

    /// The modules from the last convolution to the output that are not read.
    pub fn unread(&self, spec: &PartialSpec) -> Unread {
        let convolutions = self.network.convolutions.iter().map(|c| self.parts[c.part].path);
        let features = self.found.features.iter().map(|(_, index)| &self.parts[*index]);
        let dropped = self.found.dropped.iter().map(|index| self.parts[*index].path);
        self.modules.unread(&HeadPath {
            convolutions: convolutions.collect(),
            features: features.collect(),
            head: self.head(),
            dropped: dropped.collect(),
            output: spec.output,
        })
    }

    /// Sorts the tensors that are neither VGG16's nor the head's: parameters of the backbone alone, tensors outside the
    /// network, which are left out, and those inside, which are refused.
    fn place_others(&mut self) -> Result<(), HeadFileError> {
        let used = self.used();
        let containers = self.containers(&used);
        for (index, part) in self.parts.iter().enumerate() {
            if used.contains(&index) {
                if let Some(extra) = part.extra.first().filter(|_| !part.path.is_empty()) {
                    return Err(unplaced(extra));
                }
                left_out(&mut self.left_out, part.extra.iter().copied());
                continue;
            }
            if let Some(parameter) = self.parameter_alone(part)? {
                self.alone.push(parameter);
                continue;
            }
            let is_inside = containers.iter().any(|container| is_within(part.path, container));
            let is_convolution = matches!(part.kind, PartKind::Conv { .. });
            let has_place = !is_inside && !is_convolution && !self.may_be_missing_bias(part);
            if !self.found.dropped.contains(&index) && !has_place {
                return Err(HeadFileError::Unplaced {
                    name: part.names().into_iter().next().unwrap_or_default(),
                    shape: part
                        .weight
                        .or(part.bias)
                        .map_or_else(String::new, |weight| format!(" {:?}", weight.entry().shape)),
                });
            }
            self.left_out.extend(part.names());
        }
        Ok(())
    }

    /// Returns true for a bias without a weight that fits a Linear of the head without a bias. Left out, it would be served
    /// as zeros.
    fn may_be_missing_bias(&self, part: &Part<'a>) -> bool {
        let (None, Some(Stored::Plain(bias))) = (part.weight, part.bias) else {
            return false;
        };
        self.head().into_iter().any(|layer| {
            let rows = layer.linear().map(|(_, output)| output);
            layer.bias.is_none() && rows.is_some_and(|rows| bias.shape == [rows])
        })
    }

    fn used(&self) -> Vec<usize> {
        let mut used = Vec::new();
        for convolution in &self.network.convolutions {
            used.push(convolution.part);
            used.extend(convolution.norm);
        }
        used.extend(self.found.features.iter().map(|(_, index)| *index));
        used.extend(&self.found.layers);
        used
    }

    /// The paths within which every tensor has a place.
    fn containers(&self, used: &[usize]) -> Vec<String> {
        let mut containers: Vec<String> = used.iter().map(|index| self.parts[*index].path.to_owned()).collect();
        containers.push(self.network.container.clone());
        let head = self
            .found
            .features
            .iter()
            .map(|(_, index)| index)
            .chain(&self.found.layers);
        let paths: Vec<&str> = head.map(|index| self.parts[*index].path).collect();
        if paths.len() > 1 || self.network.whole {
            containers.push(common_path(paths.into_iter()));
        }
        // The whole network's own path has room for buffers and losses.
        let root = common_path(used.iter().map(|index| self.parts[*index].path));
        containers
            .retain(|container| !container.is_empty() && (*container != root || self.network.container.is_empty()));
        containers
    }

    /// A bias of the backbone whose weight the file lacks, under torchvision's name.
    fn parameter_alone(&self, part: &Part<'a>) -> Result<Option<(String, &'a TensorEntry)>, HeadFileError> {
        let (None, Some(Stored::Plain(bias)), true) = (part.weight, part.bias, part.extra.is_empty()) else {
            return Ok(None);
        };
        if self.network.whole {
            return Ok(None);
        }
        for step in self.architecture.steps() {
            let rows = match step.kind {
                headswap_spec::LayerKind::Conv { output, .. } | headswap_spec::LayerKind::Linear { output, .. } => {
                    output
                }
                _ => continue,
            };
            if !is_named(part.path, &step.name) {
                continue;
            }
            if bias.shape != [rows] {
                return Err(HeadFileError::Shape {
                    name: excerpt(&bias.file_name),
                    got: bias.shape.clone(),
                    expected: vec![rows],
                });
            }
            return Ok(Some((step.bias(), bias)));
        }
        Ok(None)
    }
}

fn left_out<'a>(names: &mut Vec<String>, entries: impl Iterator<Item = &'a TensorEntry>) {
    for entry in entries {
        names.push(excerpt(&entry.file_name));
    }
}

fn unplaced(entry: &TensorEntry) -> HeadFileError {
    HeadFileError::Unplaced {
        name: excerpt(&entry.file_name),
        shape: format!(" {:?}", entry.shape),
    }
}

/// The prefixes of wrappers: what all names share, and what comes before `features` and `classifier`.
fn prefixes(parts: &[Part<'_>], network: &Network, found: &Found) -> Vec<String> {
    let convolutions: Vec<usize> = network.convolutions.iter().map(|c| c.part).collect();
    let mut head: Vec<usize> = found.features.iter().map(|(_, index)| *index).collect();
    head.extend(&found.layers);
    let mut prefixes: Vec<String> = Vec::new();
    if !convolutions.is_empty() {
        let all = convolutions.iter().chain(&head).map(|index| parts[*index].path);
        add(&mut prefixes, &common_path(all));
        let last = network.container.rsplit('.').next().unwrap_or_default();
        if WRAPPERS.contains(&last) {
            add(&mut prefixes, &network.container);
        }
    }
    for (indices, name) in [(convolutions, "features"), (head, "classifier")] {
        for index in indices {
            let mut components = parts[index].path.split('.');
            let before: Vec<&str> = components.by_ref().take_while(|component| *component != name).collect();
            let mut around = match components.next() {
                Some(_) => &before[..],
                // The module itself is called so, as in `model.classifier.weight`.
                None if parts[index].path.ends_with(name) => &before[..],
                None => &[],
            };
            if around.is_empty() {
                let wrappers = before
                    .iter()
                    .take_while(|component| WRAPPERS.contains(component))
                    .count();
                around = &before[..wrappers.min(before.len().saturating_sub(1))];
            }
            add(&mut prefixes, &around.join("."));
        }
    }
    prefixes
}

fn add(prefixes: &mut Vec<String>, prefix: &str) {
    let prefix = excerpt(&format!("{prefix}."));
    if prefix != "." && !prefixes.contains(&prefix) {
        prefixes.push(prefix);
    }
}
