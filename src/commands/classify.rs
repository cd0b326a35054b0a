//! `headswap classify`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use clap::Args;
use futures::StreamExt as _;
use headswap_checkpoint::excerpt;
use headswap_client::ClientError;
use headswap_proto::classify_request::Input;
use headswap_proto::{
    ClassifyRequest, ClassifyResponse, ClassifyStreamRequest, HeadResult, OutputKind, Prediction, Timing,
};
use serde_json::{Value, json};

use crate::commands::address::Address;
use crate::commands::error::CliError;
use crate::commands::output::{print_json, print_table, progress, table};
use crate::commands::pictures::{Failures, Picture, Pictures};

const EXAMPLES: &str = "\
Examples:
  headswap classify cat.jpg dog.png
  headswap classify --head cats --head dogs --top-k 1 photos     every picture below a directory
  curl -s https://example.com/cat.jpg | headswap classify -
  headswap classify --timing cat.jpg                             where the time went
  headswap classify --json --logits cat.jpg | jq .results[0].logits

Answers come in the order of the pictures. A picture that cannot be read or answered is reported at the end, \
and the exit code is then 1.";

/// Classifies pictures with a running server.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXAMPLES)]
pub(super) struct ClassifyArgs {
    /// JPEG, PNG, WebP, GIF or BMP files; directories, for every picture below them; `-` for standard input
    #[arg(required = true, value_name = "FILE|DIR|-")]
    pictures: Vec<PathBuf>,
    /// A head to ask; may be given several times
    #[arg(long = "head", value_name = "NAME")]
    heads: Vec<String>,
    /// How many classes to show [default: 5; all values of a head whose output is linear]
    #[arg(long, value_name = "N")]
    top_k: Option<u32>,
    /// The version to ask; 0 is the live one
    #[arg(long, default_value_t = 0)]
    head_version: u64,
    /// Return every logit (with --json)
    #[arg(long, requires = "json")]
    logits: bool,
    /// Show what each picture took, in milliseconds: decoding, waiting (queue) and its batch's forward pass (compute), and
    /// how many pictures that batch had
    #[arg(long)]
    timing: bool,
    /// One JSON object for each picture
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: Address,
}

pub(super) async fn run(args: ClassifyArgs) -> Result<(), CliError> {
    let Pictures { found, mut failures } = Pictures::find(&args.pictures)?;
    let mut client = args.address.connect().await?;
    let asked = Arc::new(Asked {
        args,
        pictures: found,
        unreadable: Mutex::default(),
    });
    let count = asked.pictures.len() + failures.count();
    let bar = progress(asked.pictures.len() as u64, "classifying");
    let requests = futures::stream::iter(0..asked.pictures.len()).filter_map({
        let asked = Arc::clone(&asked);
        move |index| std::future::ready(asked.request(index))
    });

    let mut answers: Vec<Option<ClassifyResponse>> = vec![None; asked.pictures.len()];
    let mut stream = client.classify_stream(requests).await?.into_inner();
    // Why the stream ended early, if it did; what was answered until then is shown.
    let broken = loop {
        match stream.message().await {
            Ok(Some(answer)) => place(answer.response.unwrap_or_default(), &mut answers),
            Ok(None) => break None,
            Err(status) => break Some(status),
        }
        bar.inc(1);
    };
    bar.finish_and_clear();

    asked.args.show(&asked.pictures, &answers)?;
    let failed = asked.failed(&answers, &mut failures);
    failures.report();
    if let Some(status) = broken {
        return Err(status.into());
    }
    match failed {
        0 => Ok(()),
        _ => Err(CliError::Failed(format!(
            "{failed} of {count} pictures have no complete answer"
        ))),
    }
}

/// Puts an answer in its picture's place.
fn place(response: ClassifyResponse, answers: &mut [Option<ClassifyResponse>]) {
    let index = response.request_id.parse().ok();
    if let Some(place) = index.and_then(|index: usize| answers.get_mut(index)) {
        *place = Some(response);
    }
}

/// The pictures and what to ask of them; shared with the stream that reads and sends them.
struct Asked {
    args: ClassifyArgs,
    pictures: Vec<Picture>,
    unreadable: Mutex<Vec<ClientError>>,
}

impl Asked {
    /// Reads picture number `index`. Returns None, and keeps the reason, if it cannot be read.
    fn request(&self, index: usize) -> Option<ClassifyStreamRequest> {
        let image = match self.pictures[index].read() {
            Ok(image) => image,
            Err(error) => {
                self.unreadable
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(error);
                return None;
            }
        };
        let request = ClassifyRequest {
            input: Some(Input::Image(image)),
            heads: self.args.heads.clone(),
            top_k: self.args.top_k.unwrap_or_default(),
            head_version: self.args.head_version,
            include_logits: self.args.logits,
            request_id: index.to_string(),
        };
        Some(ClassifyStreamRequest { request: Some(request) })
    }

    /// Adds what went wrong to `failures`. Returns how many pictures and folders that concerns.
    fn failed(&self, answers: &[Option<ClassifyResponse>], failures: &mut Failures) -> usize {
        let mut failed = failures.count();
        for (picture, response) in self.pictures.iter().zip(answers) {
            let Some(response) = response else {
                failed += 1;
                continue;
            };
            let mut wrong = false;
            for result in &response.results {
                if let Some(error) = &result.error {
                    failures.add_line(format!("{}: head {}: {}", picture.name(), result.head, error.message));
                    wrong = true;
                }
            }
            failed += usize::from(wrong);
        }
        for error in &*self.unreadable.lock().unwrap_or_else(PoisonError::into_inner) {
            failures.add_line(error.to_string());
        }
        failed
    }
}

impl ClassifyArgs {
    /// Prints the answers in the order of the pictures.
    fn show(&self, pictures: &[Picture], answers: &[Option<ClassifyResponse>]) -> Result<(), CliError> {
        let mut headings = vec!["picture", "head", "rank", "class", "answer"];
        if self.timing {
            headings.extend(["decode ms", "queue ms", "compute ms", "batch"]);
        }
        let mut rows = table(&headings);
        for (picture, response) in pictures.iter().zip(answers) {
            let Some(response) = response else { continue };
            if self.json {
                print_json(&self.json(picture, response))?;
                continue;
            }
            // The times are the picture's, so its first row alone has them.
            let mut timing = response.timing.filter(|_| self.timing);
            for result in &response.results {
                let head = format!("{}@{}", result.head, result.version);
                for (rank, prediction) in result.predictions.iter().enumerate() {
                    let rank = (rank + 1).to_string();
                    let mut row = vec![
                        picture.name(),
                        head.clone(),
                        rank,
                        class(prediction),
                        answer(prediction),
                    ];
                    row.extend(timing.take().iter().flat_map(timing_cells));
                    rows.add_row(row);
                }
            }
        }
        if rows.row_iter().next().is_some() {
            print_table(&rows)?;
        }
        Ok(())
    }

    fn json(&self, picture: &Picture, response: &ClassifyResponse) -> Value {
        let results: Vec<Value> = response.results.iter().map(result_json).collect();
        let mut answer = json!({ "image": picture.name(), "results": results });
        if let Some(timing) = response.timing.filter(|_| self.timing) {
            answer["timing"] = json!({
                "decode_ms": milliseconds(timing.decode_us), "queue_ms": milliseconds(timing.queue_us),
                "compute_ms": milliseconds(timing.compute_us), "batch_size": timing.batch_size,
            });
        }
        answer
    }
}

fn timing_cells(timing: &Timing) -> [String; 4] {
    [
        format!("{:.2}", milliseconds(timing.decode_us)),
        format!("{:.2}", milliseconds(timing.queue_us)),
        format!("{:.2}", milliseconds(timing.compute_us)),
        timing.batch_size.to_string(),
    ]
}

fn milliseconds(us: u64) -> f64 {
    us as f64 / 1e3
}

/// The class's label, or its index if it has none.
pub(super) fn class(prediction: &Prediction) -> String {
    let class = if prediction.label.is_empty() {
        format!("class {}", prediction.index)
    } else {
        excerpt(&prediction.label)
    };
    match prediction.kind() {
        OutputKind::Groups => format!("group {}: {class}", prediction.group),
        _ => class,
    }
}

/// The probability in percent, or the value.
fn answer(prediction: &Prediction) -> String {
    match prediction.kind() {
        OutputKind::Linear => prediction.value.to_string(),
        _ => format!("{:.2} %", 100.0 * prediction.probability),
    }
}

/// What a prediction says, by its kind.
fn prediction_json(prediction: &Prediction) -> Value {
    let Prediction {
        index,
        label,
        probability,
        value,
        group,
        ..
    } = prediction;
    match prediction.kind() {
        OutputKind::Linear => json!({ "index": index, "label": label, "value": value }),
        OutputKind::Groups => json!({ "index": index, "label": label, "probability": probability, "group": group }),
        _ => json!({ "index": index, "label": label, "probability": probability }),
    }
}

fn result_json(result: &HeadResult) -> Value {
    let mut predictions = Vec::new();
    for prediction in &result.predictions {
        predictions.push(prediction_json(prediction));
    }
    json!({
        "head": result.head,
        "version": result.version,
        "digest": result.digest,
        "predictions": predictions,
        "logits": result.logits,
        "error": result.error.as_ref().map(|error| json!({ "code": error.code, "message": error.message })),
    })
}
