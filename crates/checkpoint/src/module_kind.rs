//! Tells what a layer computes from its class and its attributes.

use super::module::ModuleKind;
use super::pickle::{Objects, Ref, Value};
use super::text::excerpt;

/// PyTorch's maps have their channels first.
const FLATTEN: ModuleKind = ModuleKind::Flatten { channels_last: false };

/// The attributes of a layer.
pub(super) enum Attributes<'a> {
    /// Those of a pickled object.
    Pickled(&'a Objects, &'a [(Ref, Ref)]),
    /// The source code of a TorchScript class, which holds them as constants.
    Code(Option<String>),
}

/// Returns what a layer of this class computes. A layer whose attributes are missing is [`ModuleKind::Other`].
pub(super) fn kind(class: &str, attributes: &Attributes<'_>) -> ModuleKind {
    known(class, attributes).unwrap_or_else(|| ModuleKind::Other(excerpt(class.rsplit('.').next().unwrap_or(class))))
}

/// Returns true if a layer of this class needs attributes.
pub(super) fn needs_attributes(class: &str) -> bool {
    let name = class.rsplit('.').next().unwrap_or(class);
    let has_numbers = ["BatchNorm", "Adaptive"].iter().any(|part| name.contains(part));
    has_numbers || ["LeakyReLU", "ELU", "GELU", "Flatten", "Conv2d", "MaxPool2d"].contains(&name)
}

fn known(class: &str, attributes: &Attributes<'_>) -> Option<ModuleKind> {
    let (module, name) = class.rsplit_once('.')?;
    if module == "torchvision.models.vgg" && name == "VGG" || module == "fastai.layers" && name == "Flatten" {
        return Some(if name == "VGG" { ModuleKind::Container } else { FLATTEN });
    }
    if name == "OptimizedModule" && module.starts_with("torch._dynamo") {
        return Some(ModuleKind::Container);
    }
    if !module.starts_with("torch.nn.") {
        return None;
    }
    Some(match name {
        "Linear" | "NonDynamicallyQuantizableLinear" => ModuleKind::Linear,
        "Conv2d" => ModuleKind::Conv2d {
            padding: attributes.plain_padding()?,
        },
        "BatchNorm1d" | "BatchNorm2d" | "BatchNorm3d" | "SyncBatchNorm" => {
            let eps = attributes.number("eps", "batch_norm", 7)?;
            let is_usable = is_single(eps) && eps >= 0.0;
            known_if(is_usable, ModuleKind::BatchNorm { eps }, || {
                format!("{name}, eps {eps}")
            })
        }
        "ReLU" => ModuleKind::Relu,
        "LeakyReLU" => {
            let slope = attributes.number("negative_slope", "leaky_relu", 1)?;
            let kind = ModuleKind::LeakyRelu { slope };
            known_if(is_single(slope), kind, || format!("{name}, negative_slope {slope}"))
        }
        "ELU" => {
            let alpha = attributes.number("alpha", "elu", 1)?;
            let kind = ModuleKind::Elu { alpha };
            known_if(is_single(alpha), kind, || format!("{name}, alpha {alpha}"))
        }
        "GELU" => ModuleKind::Gelu {
            tanh: attributes.is_tanh(),
        },
        "SiLU" => ModuleKind::Silu,
        "Tanh" => ModuleKind::Tanh,
        "Sigmoid" => ModuleKind::Sigmoid,
        "Softmax" => ModuleKind::Softmax,
        "LogSoftmax" => ModuleKind::LogSoftmax,
        "Dropout" | "Dropout1d" | "Dropout2d" | "Dropout3d" | "AlphaDropout" | "FeatureAlphaDropout" => {
            ModuleKind::Dropout
        }
        "Flatten" if attributes.flattens_all() => FLATTEN,
        "Identity" => ModuleKind::Identity,
        "MaxPool2d" if attributes.halves() => ModuleKind::MaxPool,
        "AdaptiveAvgPool2d" => ModuleKind::AdaptiveAveragePool {
            size: attributes.output_size("adaptive_avg_pool2d")?,
        },
        "AdaptiveMaxPool2d" => ModuleKind::AdaptiveMaxPool {
            size: attributes.output_size("adaptive_max_pool2d")?,
        },
        "Sequential" | "ModuleList" | "DataParallel" | "DistributedDataParallel" => ModuleKind::Container,
        _ => return None,
    })
}

/// Returns true for a number that is finite in f32, as a head's layers have them.
fn is_single(number: f64) -> bool {
    (number as f32).is_finite()
}

/// Returns a layer whose number is usable, else an unknown one whose name says the number.
fn known_if(is_usable: bool, kind: ModuleKind, name: impl FnOnce() -> String) -> ModuleKind {
    if is_usable { kind } else { ModuleKind::Other(name()) }
}

impl Attributes<'_> {
    /// Returns the number `name`. In code that was traced it is an argument of a function, counted from 0.
    fn number(&self, name: &str, function: &str, argument: usize) -> Option<f64> {
        match self {
            Self::Pickled(objects, entries) => objects.number(objects.value_of(entries, name)?),
            Self::Code(code) => {
                let code = code.as_deref()?;
                let constant = constant(code, name).or_else(|| arguments(code, function)?.split(',').nth(argument));
                constant?.trim_end_matches(')').trim().parse().ok()
            }
        }
    }

    /// Returns a convolution's padding, unless it strides, is dilated, in groups, or padded with something else than zeros.
    fn plain_padding(&self) -> Option<[usize; 2]> {
        match self {
            Self::Pickled(objects, entries) => {
                let mode = objects
                    .value_of(entries, "padding_mode")
                    .and_then(|mode| objects.text(mode));
                let groups = objects
                    .value_of(entries, "groups")
                    .and_then(|groups| objects.size(groups));
                let is_plain = ["stride", "dilation"].iter().all(|name| {
                    let pair = objects.value_of(entries, name).map(|value| pair(objects, value));
                    pair.is_none_or(|pair| pair == Some([1, 1]))
                });
                if !is_plain || mode.is_some_and(|mode| mode != "zeros") || groups.is_some_and(|groups| groups != 1) {
                    return None;
                }
                let padding = objects.value_of(entries, "padding")?;
                match objects.text(padding) {
                    Some("valid") => Some([0, 0]),
                    Some(_) => {
                        let kernel = pair(objects, objects.value_of(entries, "kernel_size")?)?;
                        Some(kernel.map(|side| side / 2))
                    }
                    None => pair(objects, padding),
                }
            }
            Self::Code(code) => {
                let code = code.as_deref().unwrap_or_default();
                let is_padded_before = ["pad(", "pad1d(", "pad2d("].iter().any(|call| code.contains(call));
                let is_grouped = constant(code, "groups").is_some_and(|groups| groups != "1");
                if is_padded_before || is_grouped {
                    return None;
                }
                let lists = pairs(code, &["torch.conv2d(", "torch._convolution("]);
                match lists[..] {
                    [stride, padding, dilation, ..] => (stride == [1, 1] && dilation == [1, 1]).then_some(padding),
                    // Code in a form that is not known is trusted.
                    _ => Some([1, 1]),
                }
            }
        }
    }

    /// Returns true if a max pooling takes 2 x 2 places that do not overlap, without padding.
    fn halves(&self) -> bool {
        match self {
            Self::Pickled(objects, entries) => {
                let is = |name: &str, expected: usize| {
                    let value = objects.value_of(entries, name);
                    value.is_none_or(|value| pair(objects, value) == Some([expected; 2]))
                };
                let ceil = objects.value_of(entries, "ceil_mode").map(|value| objects.get(value));
                is("kernel_size", 2)
                    && is("stride", 2)
                    && is("padding", 0)
                    && is("dilation", 1)
                    && !matches!(ceil, Some(Value::Bool(true)))
            }
            Self::Code(code) => {
                let code = code.as_deref().unwrap_or_default();
                let usual = [
                    ("kernel_size", ["2", "(2, 2)"]),
                    ("stride", ["2", "(2, 2)"]),
                    ("padding", ["0", "(0, 0)"]),
                    ("dilation", ["1", "(1, 1)"]),
                    ("ceil_mode", ["False", "False"]),
                ];
                let agree = |(name, values): &(&str, [&str; 2])| {
                    constant(code, name).is_none_or(|value| values.contains(&value))
                };
                let lists = pairs(code, &["torch.max_pool2d("]);
                // Code in a form that is not known is trusted.
                usual.iter().all(agree)
                    && (lists.len() < 4 || lists[..4] == [[2, 2], [2, 2], [0, 0], [1, 1]])
                    && !code.contains("[1, 1], True")
            }
        }
    }

    fn is_tanh(&self) -> bool {
        match self {
            Self::Pickled(objects, entries) => {
                let approximate = objects.value_of(entries, "approximate");
                approximate.and_then(|value| objects.text(value)) == Some("tanh")
            }
            Self::Code(code) => code.as_deref().is_some_and(|code| code.contains("\"tanh\"")),
        }
    }

    /// Returns true if all dimensions but the batch's become one.
    fn flattens_all(&self) -> bool {
        match self {
            Self::Pickled(objects, entries) => [("start_dim", 1), ("end_dim", -1)].iter().all(|(name, usual)| {
                let value = objects.value_of(entries, name).map(|value| objects.get(value));
                matches!(value, None | Some(Value::Int(_))) && !matches!(value, Some(Value::Int(got)) if got != usual)
            }),
            Self::Code(code) => code.as_deref().is_none_or(|code| {
                let start = constant(code, "start_dim").or_else(|| arguments(code, "flatten")?.split(',').nth(1));
                start.is_none_or(|start| start.trim_end_matches(')').trim() == "1")
            }),
        }
    }

    fn output_size(&self, function: &str) -> Option<[usize; 2]> {
        match self {
            Self::Pickled(objects, entries) => {
                let size = objects.value_of(entries, "output_size")?;
                match objects.sequence(size) {
                    Some([rows, columns]) => Some([extent(objects, *rows)?, extent(objects, *columns)?]),
                    Some(_) => None,
                    None => Some([extent(objects, size)?; 2]),
                }
            }
            Self::Code(code) => {
                let code = code.as_deref()?;
                let constant = constant(code, "output_size");
                let list =
                    constant.or_else(|| Some(arguments(code, function)?.split_once('[')?.1.split_once(']')?.0))?;
                let mut sizes = list
                    .trim_matches(['(', ')'])
                    .split(',')
                    .map(|size| size.trim().parse().ok());
                let rows = sizes.next()??;
                Some([rows, sizes.next().unwrap_or(Some(rows))?])
            }
        }
    }
}

/// Returns two sizes, or one for both.
fn pair(objects: &Objects, value: Ref) -> Option<[usize; 2]> {
    match objects.sequence(value) {
        Some([rows, columns]) => Some([objects.size(*rows)?, objects.size(*columns)?]),
        Some([side]) => Some([objects.size(*side)?; 2]),
        Some(_) => None,
        None => Some([objects.size(value)?; 2]),
    }
}

/// Returns the lists of two numbers among the arguments of the first of these calls.
fn pairs(code: &str, calls: &[&str]) -> Vec<[usize; 2]> {
    let mut pairs = Vec::new();
    let Some(line) = calls.iter().find_map(|call| code.split_once(call)?.1.lines().next()) else {
        return pairs;
    };
    for list in line.split('[').skip(1) {
        let numbers = list.split_once(']').and_then(|(list, _)| list.split_once(", "));
        if let Some((rows, columns)) = numbers
            && let (Ok(rows), Ok(columns)) = (rows.parse(), columns.parse())
        {
            pairs.push([rows, columns]);
        }
    }
    pairs
}

fn extent(objects: &Objects, value: Ref) -> Option<usize> {
    match objects.get(value) {
        Value::None => Some(0),
        _ => objects.size(value),
    }
}

/// Returns the value of a constant of a TorchScript class: `name : Final[type] = value`.
fn constant<'a>(code: &'a str, name: &str) -> Option<&'a str> {
    code.lines().find_map(|line| {
        let declared = line.trim_start().strip_prefix(name)?.strip_prefix(" : Final[")?;
        Some(declared.split_once("] = ")?.1.trim())
    })
}

/// Returns the text of the arguments of the first call of a function of torch.
fn arguments<'a>(code: &'a str, function: &str) -> Option<&'a str> {
    let call = format!("torch.{function}(");
    let rest = &code[code.find(&call)? + call.len()..];
    Some(rest.split_once('\n').map_or(rest, |(line, _)| line))
}

/// Returns the code of one class of a TorchScript source file.
pub(super) fn class_code(file: &str, class: &str) -> Option<String> {
    let head = format!("class {class}(");
    let mut starts = file.match_indices(&head).map(|(at, _)| at);
    let start = starts.find(|at| *at == 0 || file[..*at].ends_with('\n'))?;
    let body = &file[start + head.len()..];
    let end = ["\nclass ", "\ndef "].iter().filter_map(|next| body.find(next)).min();
    Some(body[..end.unwrap_or(body.len())].to_owned())
}

/// Returns the Python class of a TorchScript class: without `__torch__` and the numbers that keep names apart.
pub(super) fn unmangled(class: &str) -> String {
    let parts = class
        .split('.')
        .filter(|part| *part != "__torch__" && !part.starts_with("___torch_mangle_"));
    parts.collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACED: &str = "class BatchNorm2d(Module):\n  def forward(self):\n    input = torch.batch_norm(x, w, b, m, v, False, 0.1, 0.001, True)\n    return input\nclass B(Module):\n";

    #[test]
    fn constants_of_torchscript_are_found_in_its_code() {
        let code = class_code(TRACED, "BatchNorm2d").unwrap();
        assert!(!code.contains("class B"));
        let kind = |class: &str, code: &str| kind(class, &Attributes::Code(Some(code.into())));
        let name = unmangled("__torch__.torch.nn.modules.batchnorm.___torch_mangle_7.BatchNorm2d");
        assert_eq!(name, "torch.nn.modules.batchnorm.BatchNorm2d");
        assert_eq!(kind(&name, &code), ModuleKind::BatchNorm { eps: 0.001 });
        assert_eq!(kind(&name, ""), ModuleKind::Other("BatchNorm2d".into()));
        assert_eq!(
            kind(
                "torch.nn.modules.pooling.AdaptiveAvgPool2d",
                "  output_size : Final[Tuple[int, int]] = (7, 5)\n"
            ),
            ModuleKind::AdaptiveAveragePool { size: [7, 5] }
        );
        assert_eq!(
            kind(
                "torch.nn.modules.pooling.AdaptiveMaxPool2d",
                "  output_size : Final[int] = 1\n"
            ),
            ModuleKind::AdaptiveMaxPool { size: [1, 1] }
        );
        let convolution = |call: &str| kind("torch.nn.modules.conv.Conv2d", call);
        let padded = |side| ModuleKind::Conv2d { padding: [side, side] };
        let other = ModuleKind::Other("Conv2d".into());
        for (call, expected) in [
            ("torch.conv2d(input, weight, bias, [1, 1], [1, 1], [1, 1])", &padded(1)),
            (
                "torch._convolution(x, w, b, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)",
                &padded(0),
            ),
            (
                "torch._convolution(x, w, b, [1, 1], [2, 2], [2, 2], False, [0, 0], 1)",
                &other,
            ),
            ("torch.conv2d(input, weight, bias, [2, 2], [1, 1], [1, 1])", &other),
            (
                "_1 = functional.pad(x)\n torch.conv2d(_1, w, b, [1, 1], _2, [1, 1])",
                &other,
            ),
            (
                "  groups : Final[int] = 2\n torch.conv2d(x, w, b, [1, 1], [1, 1], [1, 1])",
                &other,
            ),
        ] {
            assert_eq!(convolution(call), *expected, "{call}");
        }
        let pooling = |code: &str| kind("torch.nn.modules.pooling.MaxPool2d", code);
        let other = ModuleKind::Other("MaxPool2d".into());
        for (code, expected) in [
            (
                "torch.max_pool2d(x, [2, 2], [2, 2], [0, 0], [1, 1])",
                &ModuleKind::MaxPool,
            ),
            ("torch.max_pool2d(x, [2, 2], [2, 2], [0, 0], [1, 1], True)", &other),
            ("torch.max_pool2d(x, [3, 3], [2, 2], [1, 1], [1, 1])", &other),
            ("  kernel_size : Final[int] = 2\n  stride : Final[int] = 1\n", &other),
        ] {
            assert_eq!(pooling(code), *expected, "{code}");
        }
        assert_eq!(
            kind(
                "torch.nn.modules.pooling.AdaptiveAvgPool2d",
                "torch.adaptive_avg_pool2d(x, [7, 7])"
            ),
            ModuleKind::AdaptiveAveragePool { size: [7, 7] }
        );
    }
}
