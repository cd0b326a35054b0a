//! Prints the layers as PyTorch's `print(model)` does.

use std::fmt::Write as _;

use crate::architecture::{Architecture, LayerKind};

/// Returns what `print(torchvision.models.vgg16())` prints, for this architecture with `classes` outputs.
pub fn describe_layers(architecture: Architecture, classes: usize) -> String {
    let mut text = String::from("VGG(\n");
    let mut open: Option<String> = None;
    for layer in architecture.layers(classes) {
        let kind = describe_kind(layer.kind);
        let block = layer
            .name
            .split_once('.')
            .map(|(block, index)| (block.to_owned(), index.to_owned()));
        let name = block.as_ref().map(|(name, _)| name);
        if open.as_ref() != name {
            if open.take().is_some() {
                text.push_str("  )\n");
            }
            if let Some(name) = name {
                let _ = writeln!(text, "  ({name}): Sequential(");
                open = Some(name.clone());
            }
        }
        let _ = match block {
            Some((_, index)) => writeln!(text, "    ({index}): {kind}"),
            None => writeln!(text, "  ({}): {kind}", layer.name),
        };
    }
    if open.is_some() {
        text.push_str("  )\n");
    }
    text.push(')');
    text
}

fn describe_kind(kind: LayerKind) -> String {
    match kind {
        LayerKind::Conv { input, output } => {
            format!("Conv2d({input}, {output}, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))")
        }
        LayerKind::Relu => "ReLU(inplace=True)".into(),
        LayerKind::MaxPool => "MaxPool2d(kernel_size=2, stride=2, padding=0, dilation=1, ceil_mode=False)".into(),
        LayerKind::AdaptiveAvgPool => "AdaptiveAvgPool2d(output_size=(7, 7))".into(),
        LayerKind::Dropout => "Dropout(p=0.5, inplace=False)".into(),
        LayerKind::Linear { input, output } => {
            format!("Linear(in_features={input}, out_features={output}, bias=True)")
        }
    }
}
