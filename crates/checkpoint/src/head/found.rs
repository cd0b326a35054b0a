//! Finds a head's own modules: which of the file's Linears and norms are the head, and in which order.

use headswap_spec::{Architecture, Framework, HeadInput};

use super::error::HeadFileError;
use super::modules::Modules;
use super::network::{Network, channels, is_named};
use super::part::{Part, PartKind, is_within, transposed};

/// The modules after the convolutions, by their indices.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The Linears that compute `features`, with torchvision's names.
    pub features: Vec<(&'static str, usize)>,
    /// True if the first of them takes the map by row, column and channel.
    pub is_channels_last: bool,
    /// The head's Linears, batch norms and affines in order.
    pub layers: Vec<usize>,
    /// Those of other heads, which are left out.
    pub dropped: Vec<usize>,
    pub assumed: Vec<String>,
}

/// What the search knows.
#[derive(Clone, Copy)]
pub(super) struct Search<'a> {
    pub parts: &'a [Part<'a>],
    pub network: &'a Network,
    pub modules: &'a Modules<'a>,
    pub architecture: Architecture,
    /// What wrote the file.
    pub framework: Framework,
    /// The spec's input.
    pub input: Option<HeadInput>,
}

/// The first Linears of torchvision's classifier.
const FIRST: &str = "classifier.0";
const SECOND: &str = "classifier.3";
const LAST: &str = "classifier.6";

/// Finds the head.
///
/// # Errors
/// [`HeadFileError`] if there is no Linear, or if their widths do not follow each other.
pub(super) fn find(search: Search<'_>) -> Result<Found, HeadFileError> {
    let mut linears = search.linears();
    if linears.is_empty() {
        return Err(HeadFileError::NoLinear { held: search.held() });
    }
    let mut found = Found {
        features: search.named_features(&linears),
        ..Found::default()
    };
    linears.retain(|index| !found.features.iter().any(|(_, feature)| feature == index));
    if !search.is_chain(&linears) {
        match search.only_order(&linears) {
            Some(order) => {
                let names: Vec<String> = order.iter().map(|index| search.parts[*index].name()).collect();
                found.assumed.push(format!(
                    "the order of the Linears: {}, the only one whose widths agree",
                    names.join(", ")
                ));
                linears = order;
            }
            None => {
                let chosen = search.branch(&linears)?;
                found.dropped = search.others(&linears, &chosen);
                linears = chosen;
            }
        }
    }
    search.check_first(linears[0])?;
    let is_sorted = linears.is_sorted();
    let norms = search.norms(&found.dropped);
    if !is_sorted && !norms.is_empty() {
        return Err(search.broken_chain(&search.linears()));
    }
    found.layers = linears.iter().copied().chain(norms).collect();
    if is_sorted {
        found.layers.sort_unstable();
    }
    if found.features.is_empty() {
        search.take_features(&mut found);
    }
    Ok(found)
}

impl Search<'_> {
    pub fn linears(&self) -> Vec<usize> {
        let mut linears = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            if part.linear().is_some() {
                linears.push(index);
            }
        }
        linears
    }

    /// The batch norms and affines that are not the convolutions'.
    pub fn norms(&self, dropped: &[usize]) -> Vec<usize> {
        let mut norms = Vec::new();
        for (index, part) in self.parts.iter().enumerate() {
            let is_norm = matches!(part.kind, PartKind::BatchNorm { .. } | PartKind::Affine { .. });
            let taken = self.network.convolutions.iter().any(|c| c.norm == Some(index));
            if is_norm && !taken && !dropped.contains(&index) {
                norms.push(index);
            }
        }
        norms
    }

    fn held(&self) -> String {
        if self.network.whole {
            "VGG16's convolutions".to_owned()
        } else if self.network.convolutions.is_empty() {
            "no convolutions of VGG16".to_owned()
        } else {
            "some of VGG16's convolutions".to_owned()
        }
    }

    /// The width of `input`; `None` if it depends on the size of the pictures.
    fn width(&self, input: HeadInput) -> Option<usize> {
        input_width(self.architecture, input)
    }

    /// Whether a head may stand where this many values are.
    pub fn stands(&self, width: usize) -> bool {
        let inputs = [
            HeadInput::Adaptive7x7,
            HeadInput::Features,
            HeadInput::GlobalAverage,
            HeadInput::GlobalMaxAverage,
        ];
        match self.input {
            Some(input) => self
                .width(input)
                .map_or(width.is_multiple_of(channels(self.architecture)), |expected| {
                    expected == width
                }),
            None => inputs.into_iter().any(|input| self.width(input) == Some(width)),
        }
    }

    pub fn shape(&self, index: usize) -> (usize, usize) {
        self.parts[index].linear().unwrap_or_default()
    }

    /// True for the shapes of `classifier.0` and `classifier.3`.
    fn is_first(&self, index: usize) -> bool {
        let (input, output) = self.shape(index);
        Some(input) == self.width(HeadInput::Adaptive7x7) && output == self.architecture.features()
    }

    fn is_second(&self, index: usize) -> bool {
        self.shape(index) == (self.architecture.features(), self.architecture.features())
    }

    /// `classifier.0` and `classifier.3` of a file that has some of VGG16's parameters, under torchvision's names.
    fn named_features(&self, linears: &[usize]) -> Vec<(&'static str, usize)> {
        let mut features = Vec::new();
        let last = linears.iter().find(|index| is_last(self.parts[**index].path));
        let last_takes_features = last.is_some_and(|index| self.shape(*index).0 == self.architecture.features());
        if self.network.whole || !last_takes_features || !matches!(self.input, None | Some(HeadInput::Features)) {
            return features;
        }
        for &index in linears {
            let path = self.parts[index].path;
            if is_named(path, FIRST) && self.is_first(index) {
                features.push((FIRST, index));
            } else if is_named(path, SECOND) && self.is_second(index) {
                features.push((SECOND, index));
            }
        }
        let mut indices: Vec<usize> = features.iter().map(|(_, index)| *index).collect();
        indices.extend(last);
        match self.are_joined_by_relus(&indices) {
            Some(false) => Vec::new(),
            Some(true) | None => features,
        }
    }

    /// Whether a ReLU alone lies between each Linear and the next; `None` if the file does not say it.
    fn are_joined_by_relus(&self, linears: &[usize]) -> Option<bool> {
        let mut are_joined = Some(true);
        for pair in linears.windows(2) {
            let [before, after] = [pair[0], pair[1]].map(|index| self.parts[index].path);
            match self.modules.between(before, after) {
                Some(layers) if layers == [headswap_spec::HeadLayer::Relu] => {}
                Some(_) => return Some(false),
                None => are_joined = None,
            }
        }
        are_joined
    }

    /// Takes the Linears of VGG16's own shapes as those that compute `features`.
    fn take_features(&self, found: &mut Found) {
        let [first, second, third, ..] = found.layers[..] else {
            return;
        };
        let own = self.is_first(first) && self.is_second(second);
        let next = self.parts[third]
            .linear()
            .is_some_and(|(input, _)| input == self.architecture.features());
        if !(own && next && matches!(self.input, None | Some(HeadInput::Features))) {
            return;
        }
        let said = match self.are_joined_by_relus(&[first, second, third]) {
            Some(false) => return,
            said => said.is_some(),
        };
        found.is_channels_last = match self.modules.input(self.parts[first].path) {
            Some(HeadInput::FlattenHwc) => true,
            Some(HeadInput::Flatten | HeadInput::Adaptive7x7) => false,
            _ => self.framework == Framework::Keras,
        };
        found.layers.drain(..2);
        found.features = vec![(FIRST, first), (SECOND, second)];
        let [one, other] = [self.parts[first].path, self.parts[second].path];
        let torchvision = is_named(one, FIRST) && is_named(other, SECOND);
        // torchvision before 0.2 and timm.
        let known = [("classifier.1", "classifier.4"), ("pre_logits.fc1", "pre_logits.fc2")]
            .into_iter()
            .any(|(a, b)| is_named(one, a) && is_named(other, b));
        let keras = self.framework == Framework::Keras && is_named(one, "fc1") && is_named(other, "fc2");
        if !(said || torchvision || known || keras) {
            let names = format!("{} and {}", self.parts[first].name(), self.parts[second].name());
            found
                .assumed
                .push(format!("{names}: relu after each, Linears of VGG16's own shapes"));
        }
    }

    /// Refuses a first Linear whose dimensions are swapped.
    fn check_first(&self, index: usize) -> Result<(), HeadFileError> {
        let (input, output) = self.shape(index);
        match self.parts[index].weight {
            Some(weight) if !self.stands(input) && self.stands(output) && self.parts[index].bias.is_none() => {
                Err(transposed(weight.entry()))
            }
            _ => Ok(()),
        }
    }
}

/// The width of an input; `None` if it depends on the size of the pictures.
pub(super) fn input_width(architecture: Architecture, input: HeadInput) -> Option<usize> {
    let channels = channels(architecture);
    match input {
        HeadInput::Flatten | HeadInput::FlattenHwc => None,
        HeadInput::Adaptive7x7 => Some(channels * 49),
        HeadInput::GlobalAverage | HeadInput::GlobalMax => Some(channels),
        HeadInput::GlobalMaxAverage => Some(2 * channels),
        HeadInput::Features => Some(architecture.features()),
    }
}

/// True for `classifier.6`, and for a module in it.
fn is_last(path: &str) -> bool {
    path.split_once(LAST).is_some_and(|(before, after)| {
        is_named(&format!("{before}{LAST}"), LAST) && is_within(&format!("{LAST}{after}"), LAST)
    })
}

/// The path of the module around another.
pub(super) fn parent(path: &str) -> &str {
    path.rsplit_once('.').map_or("", |(parent, _)| parent)
}
