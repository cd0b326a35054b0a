//! Recognises `preprocess_input` of `keras.applications` in a `Lambda` layer.

use serde_json::{Map, Value as Json};

use super::config::text;

/// A mode of `imagenet_utils.preprocess_input`.
pub(super) struct Mode {
    pub name: String,
    /// True if the file does not say whose `preprocess_input` it is.
    pub is_assumed: bool,
}

/// The networks of `keras.applications` whose `preprocess_input` has the mode `caffe`.
const CAFFE: [&str; 5] = ["vgg16", "vgg19", "resnet", "resnet50", "imagenet_utils"];

/// Returns the mode; `None` for any other function. Keras 2 saves the code of the function, which is not looked at, and the
/// module in which it is defined; in those modules only `preprocess_input` takes pictures. Keras 3 saves its name.
pub(super) fn mode(config: &Map<String, Json>) -> Option<Mode> {
    let function = config.get("function")?;
    let (module, name) = match function {
        Json::String(name) => (text(config, "module"), Some(name.as_str())),
        Json::Array(_) => (text(config, "module"), None),
        object => (
            object["module"].as_str().unwrap_or_default().to_owned(),
            Some(object["config"].as_str()?),
        ),
    };
    let network = module.rsplit_once("applications.").map(|(_, network)| network);
    let is_known = network.is_some_and(|network| CAFFE.contains(&network));
    let is_nameless = name == Some("preprocess_input") && ["builtins", ""].contains(&module.as_str());
    if !(is_known && matches!(name, None | Some("preprocess_input")) || is_nameless) {
        return None;
    }
    let arguments = config.get("arguments");
    let mode = arguments
        .and_then(|arguments| arguments["mode"].as_str())
        .unwrap_or("caffe");
    Some(Mode {
        name: mode.to_owned(),
        is_assumed: is_nameless,
    })
}
