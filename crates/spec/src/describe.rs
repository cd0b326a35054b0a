//! Prints the layers as PyTorch's `print(model)` does.

use std::fmt::Write as _;

use crate::architecture::{Architecture, Layer, LayerKind};
use crate::complete_spec::CompleteSpec;

/// Returns what `print(torchvision.models.vgg16())` prints, for this architecture with the head of `spec`. Layers of the
/// head's own stand at the end, as its spec names them.
pub fn describe_layers(architecture: Architecture, spec: &CompleteSpec) -> String {
    let mut text = describe(&spec.passed_layers(architecture));
    if !spec.is_last_linear_alone() {
        let _ = writeln!(text, "  (head): Sequential(\n    (input): {}", spec.input.name());
        for (index, layer) in spec.layers.iter().enumerate() {
            let _ = writeln!(text, "    ({index}): {layer}");
        }
        text.push_str("  )\n");
    }
    text.push(')');
    text
}

/// As [`describe_layers`], of a backbone without a head; `has_features` is false for one without Linears.
pub fn describe_backbone(architecture: Architecture, has_features: bool) -> String {
    let mut text = describe(&architecture.backbone_layers(has_features));
    text.push(')');
    text
}

/// Returns the layers without the closing parenthesis.
fn describe(layers: &[Layer]) -> String {
    let mut text = String::from("VGG(\n");
    let mut open: Option<String> = None;
    for layer in layers {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::head_layer::HeadLayer;
    use crate::head_spec::{HeadInput, Output};
    use crate::preset::Preset;

    #[test]
    fn a_head_takes_the_place_of_the_layers_that_its_input_leaves_out() {
        let layers = vec![HeadLayer::Linear, HeadLayer::Relu, HeadLayer::Linear];
        let spec = |input| CompleteSpec {
            input,
            layers: layers.clone(),
            output: Output::Softmax,
            ..CompleteSpec::plain(Preset::Torchvision.preprocessing(), 5)
        };
        let printed = |input| describe_layers(Architecture::Vgg16, &spec(input));

        let pooled = printed(HeadInput::GlobalAverage);
        let own = "  (head): Sequential(\n    (input): global_average\n    (0): linear\n    (1): relu\n    (2): linear\n  )\n)";
        assert!(pooled.ends_with(&format!("ceil_mode=False)\n  )\n{own}")), "{pooled}");
        let classifier = printed(HeadInput::Features);
        assert!(classifier.contains("(3): Linear(in_features=4096") && !classifier.contains("(6): Linear"));
        let plain = describe_layers(
            Architecture::Vgg16,
            &CompleteSpec::plain(Preset::Torchvision.preprocessing(), 5),
        );
        assert!(
            plain.contains("(6): Linear(in_features=4096, out_features=5, bias=True)\n  )\n)"),
            "{plain}"
        );
    }
}
