//! `headswap embed`.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use futures::{StreamExt as _, stream};
use headswap_client::{Classifier, ClientError};
use headswap_proto::embed_request::Input;
use headswap_proto::{EmbedKind, EmbedRequest, EmbedResponse};
use serde_json::json;
use tonic::{Code, Status};

use crate::commands::address::Address;
use crate::commands::error::CliError;
use crate::commands::npy::NpyFile;
use crate::commands::output::{print_json, print_line, progress};
use crate::commands::pictures::{Picture, Pictures};

const EXAMPLES: &str = "\
Examples:
  headswap embed cat.jpg | jq .features[0]
  headswap embed --output features.npy photos > names.txt     row i belongs to line i of names.txt

Without --output, each picture is a line of JSON. With --output, standard output gets the name of each row's picture, \
one on a line. Both keep the order of the pictures. A picture that cannot be read or computed has neither line nor row; \
it is reported at the end, and the exit code is then 1.";

/// Computes pictures' features with a running server: the numbers that enter the last Linear layer, 4096 for VGG16.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct EmbedArgs {
    /// JPEG, PNG, WebP, GIF or BMP files; directories, for every picture below them; `-` for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    pictures: Vec<PathBuf>,
    /// Write a float32 matrix in NumPy's .npy format, a row for each picture; the file appears whole or not at all
    #[arg(long, value_name = "FILE.npy", value_parser = npy_path)]
    output: Option<PathBuf>,
    /// Pictures under way at the same time
    #[arg(long, default_value = "8", value_parser = clap::value_parser!(u16).range(1..=1024))]
    concurrency: u16,
    /// What to compute: what enters the last Linear layer (features), the last pooling's map (pool), or its means (gap)
    #[arg(long, value_enum, default_value = "features")]
    kind: Kind,
    /// The backbone that computes [default: that of --head, or else the server's first]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    backbone: String,
    /// Prepare the pictures as for this head, instead of as for the backbone
    #[arg(long, default_value = "", hide_default_value = true)]
    head: String,
    #[command(flatten)]
    address: Address,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Features,
    Pool,
    Gap,
}

impl From<Kind> for EmbedKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Features => Self::Features,
            Kind::Pool => Self::Pool,
            Kind::Gap => Self::Gap,
        }
    }
}

pub(super) async fn run(args: EmbedArgs) -> Result<(), CliError> {
    let Pictures { found, mut failures } = Pictures::find(&args.pictures)?;
    let count = found.len() + failures.count();
    let mut output = Output::open(args.output.as_deref())?;
    let client = args.address.connect().await?;
    let bar = progress(found.len() as u64, "embedding");
    let mut answers = stream::iter(found)
        .map(|picture| embed(client.clone(), picture, &args))
        .buffered(args.concurrency.into());
    while let Some((name, answer)) = answers.next().await {
        bar.inc(1);
        match answer {
            // Standard output and the bar may be on the same terminal.
            Ok(response) => bar.suspend(|| output.add(&name, response))?,
            Err(error) if is_lost(&error) => {
                bar.finish_and_clear();
                return Err(error.into());
            }
            Err(error @ ClientError::Read { .. }) => failures.add_line(error.to_string()),
            Err(error) => failures.add(&name, &error),
        }
    }
    bar.finish_and_clear();
    failures.report();
    match failures.count() {
        0 => output.finish(),
        failed if failed == count => Err(CliError::Failed(format!("none of {count} pictures has features"))),
        failed => {
            output.finish()?;
            Err(CliError::Failed(format!(
                "{failed} of {count} pictures have no features"
            )))
        }
    }
}

/// Reads a picture and asks for its features.
async fn embed(
    mut client: Classifier,
    picture: Picture,
    args: &EmbedArgs,
) -> (String, Result<EmbedResponse, ClientError>) {
    let name = picture.name();
    let image = match picture.read() {
        Ok(image) => image,
        Err(error) => return (name, Err(error)),
    };
    let request = EmbedRequest {
        input: Some(Input::Image(image)),
        head: args.head.clone(),
        backbone: args.backbone.clone(),
        kind: EmbedKind::from(args.kind).into(),
        ..EmbedRequest::default()
    };
    let answer = client.embed(request).await.map(tonic::Response::into_inner);
    (name, answer.map_err(ClientError::from))
}

/// Whether the server is gone or draining, so that asking on is in vain.
fn is_lost(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(status) if Status::code(status) == Code::Unavailable)
}

/// Where features go.
enum Output {
    JsonLines,
    Npy { file: NpyFile, path: PathBuf },
}

impl Output {
    /// Before there is a connection, so that a folder that is not there costs no work.
    fn open(path: Option<&Path>) -> Result<Self, CliError> {
        let Some(path) = path else {
            return Ok(Self::JsonLines);
        };
        let file = NpyFile::create(path).map_err(|error| cannot_write(path, &error))?;
        let path = path.to_owned();
        Ok(Self::Npy { file, path })
    }

    fn add(&mut self, name: &str, response: EmbedResponse) -> Result<(), CliError> {
        match self {
            Self::JsonLines => print_json(
                &json!({ "image": name, "backbone_digest": response.backbone_digest, "features": response.features }),
            ),
            Self::Npy { file, path } => {
                file.push(&response.features)
                    .map_err(|error| cannot_write(path, &error))?;
                print_line(name)
            }
        }
    }

    fn finish(self) -> Result<(), CliError> {
        match self {
            Self::JsonLines => Ok(()),
            Self::Npy { file, path } => file.finish().map_err(|error| cannot_write(&path, &error)),
        }
    }
}

fn cannot_write(path: &Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!("cannot write {}: {error}", path.display()))
}

fn npy_path(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match path.extension() {
        Some(extension) if extension == "npy" => Ok(path),
        _ => Err("the format is NumPy's: use a name that ends with .npy".to_owned()),
    }
}
