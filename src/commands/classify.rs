//! `headswap classify`.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use clap::Args;
use futures::StreamExt as _;
use headswap_client::ClientError;
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, HeadResult, Prediction};
use serde_json::{Value, json};

use crate::commands::address::Address;
use crate::commands::error::CliError;
use crate::commands::output::{print_json, print_table, progress, table};

const EXAMPLES: &str = "\
Examples:
  headswap classify cat.jpg dog.png
  headswap classify --head cats --head dogs --top-k 1 *.jpg
  headswap classify --json --logits cat.jpg | jq .results[0].logits";

/// Asks a running server what is on pictures.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ClassifyArgs {
    /// JPEG, PNG, WebP, GIF or BMP files
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<PathBuf>,
    /// A head to ask; may be given several times
    #[arg(long = "head", value_name = "NAME")]
    heads: Vec<String>,
    /// How many classes to show
    #[arg(long, default_value_t = 5)]
    top_k: u32,
    /// The version to ask; 0 is the live one
    #[arg(long, default_value_t = 0)]
    head_version: u64,
    /// Return every logit (with --json)
    #[arg(long)]
    logits: bool,
    /// One JSON object for each image
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: Address,
}

pub(super) async fn run(args: ClassifyArgs) -> Result<(), CliError> {
    let mut client = args.address.connect().await?;
    let bar = progress(args.images.len() as u64, "classifying");
    let unreadable = Arc::new(AtomicUsize::new(0));
    let requests = futures::stream::iter(0..args.images.len()).filter_map({
        let (args, unreadable) = (args.clone(), Arc::clone(&unreadable));
        move |index| {
            let request = args.request(index).inspect_err(|error| {
                eprintln!("headswap: {error}");
                unreadable.fetch_add(1, Ordering::Relaxed);
            });
            std::future::ready(request.ok())
        }
    });

    let mut answers: Vec<Option<ClassifyResponse>> = vec![None; args.images.len()];
    let mut stream = client.classify_stream(requests).await?.into_inner();
    while let Some(answer) = stream.message().await? {
        let response = answer.response.unwrap_or_default();
        bar.inc(1);
        if let Some(place) = response
            .request_id
            .parse()
            .ok()
            .and_then(|index: usize| answers.get_mut(index))
        {
            *place = Some(response);
        }
    }
    bar.finish_and_clear();

    let failed = args.show(&answers) + unreadable.load(Ordering::Relaxed);
    match failed {
        0 => Ok(()),
        _ => Err(CliError::Failed(format!(
            "{failed} of {} images have no whole answer",
            args.images.len()
        ))),
    }
}

impl ClassifyArgs {
    fn request(&self, index: usize) -> Result<ClassifyStreamRequest, CliError> {
        let path = &self.images[index];
        let image = std::fs::read(path).map_err(|error| ClientError::unreadable(path, error))?;
        let request = ClassifyRequest {
            input: Some(Input::Image(image.into())),
            heads: self.heads.clone(),
            top_k: self.top_k,
            head_version: self.head_version,
            include_logits: self.logits,
            request_id: index.to_string(),
        };
        Ok(ClassifyStreamRequest { request: Some(request) })
    }

    /// Prints the answers in the order of the images; returns how many images have an error in theirs.
    fn show(&self, answers: &[Option<ClassifyResponse>]) -> usize {
        let mut rows = table(&["image", "head", "rank", "class", "probability"]);
        let mut failed = 0;
        for (path, response) in self.images.iter().zip(answers) {
            let Some(response) = response else { continue };
            let image = path.display().to_string();
            if self.json {
                print_json(
                    &json!({ "image": image, "results": response.results.iter().map(result_json).collect::<Vec<_>>() }),
                );
            }
            for result in &response.results {
                let head = format!("{}@{}", result.head, result.version);
                for (rank, prediction) in result.predictions.iter().enumerate() {
                    let probability = format!("{:.2} %", 100.0 * prediction.probability);
                    rows.add_row([&image, &head, &(rank + 1).to_string(), &class(prediction), &probability]);
                }
                if let Some(error) = &result.error {
                    eprintln!("headswap: {image}: head {}: {}", result.head, error.message);
                }
            }
            failed += usize::from(response.results.iter().any(|result| result.error.is_some()));
        }
        if !self.json && rows.row_iter().next().is_some() {
            print_table(&rows);
        }
        failed
    }
}

/// The class's label, or its index if it has none.
pub(super) fn class(prediction: &Prediction) -> String {
    if prediction.label.is_empty() {
        format!("class {}", prediction.index)
    } else {
        prediction.label.clone()
    }
}

fn result_json(result: &HeadResult) -> Value {
    let prediction = |p: &Prediction| json!({ "index": p.index, "label": p.label, "probability": p.probability });
    json!({
        "head": result.head,
        "version": result.version,
        "digest": result.digest,
        "predictions": result.predictions.iter().map(prediction).collect::<Vec<_>>(),
        "logits": result.logits,
        "error": result.error.as_ref().map(|error| json!({ "code": error.code, "message": error.message })),
    })
}
