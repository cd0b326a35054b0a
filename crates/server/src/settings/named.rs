//! Values of flags that may be given for one backbone by its name: `name=VALUE`.

use std::convert::Infallible;
use std::fmt;
use std::path::Path;
use std::str::FromStr;

use headswap_heads::is_backbone_name;

/// What separates several values in an environment variable: paths may hold any other character.
pub(super) const SEPARATOR: char = '\n';

/// A value, and the name of the backbone that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    /// The name; none for the first backbone.
    pub name: Option<String>,
    /// The value.
    pub value: T,
}

impl<T: FromStr<Err = Infallible>> FromStr for Named<T> {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, value) = split(text, Path::new(text).exists());
        Ok(Self {
            name: name.map(str::to_owned),
            value: value.parse()?,
        })
    }
}

/// Splits a name from a value. What stands before the first `=` is a name if it could be one, unless the whole text is that of
/// a file.
fn split(text: &str, is_file: bool) -> (Option<&str>, &str) {
    match text.split_once('=') {
        Some((name, value)) if is_backbone_name(name) && !is_file => (Some(name), value),
        _ => (None, text),
    }
}

impl<T: fmt::Display> fmt::Display for Named<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.name {
            write!(f, "{name}=")?;
        }
        self.value.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use headswap_model::WeightsSource;

    use super::*;

    fn parsed(text: &str) -> (Option<String>, WeightsSource) {
        let named: Named<WeightsSource> = text.parse().unwrap();
        assert_eq!(named.to_string().replace(" (untrained)", ""), text);
        (named.name, named.value)
    }

    #[test]
    fn a_name_comes_before_the_first_equals_sign() {
        let file = |path: &str| WeightsSource::File(path.into());
        for (text, name, value) in [
            ("vgg16.pth", None, file("vgg16.pth")),
            ("keras=vgg16.keras", Some("keras"), file("vgg16.keras")),
            ("keras=/srv/a=b.keras", Some("keras"), file("/srv/a=b.keras")),
            ("other=demo", Some("other"), WeightsSource::Demo),
            ("./a=b.pth", None, file("./a=b.pth")),
            ("/srv/lr=0.1/vgg16.pth", None, file("/srv/lr=0.1/vgg16.pth")),
            ("=a.pth", None, file("=a.pth")),
        ] {
            assert_eq!(parsed(text), (name.map(str::to_owned), value), "{text}");
        }
    }

    #[test]
    fn a_file_with_an_equals_sign_is_a_file() {
        assert_eq!(split("lr=0.1.pth", true), (None, "lr=0.1.pth"));
        assert_eq!(split("lr=0.1.pth", false), (Some("lr"), "0.1.pth"));
    }
}
