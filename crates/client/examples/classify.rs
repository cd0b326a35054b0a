//! Classifies a picture and prints the most probable classes of each head.
//!
//! ```sh
//! cargo run -p headswap-client --example classify -- images/chelsea.png
//! cargo run -p headswap-client --example classify -- images/chelsea.png default cats
//! ```
//!
//! `HEADSWAP_ADDRESS` names a server other than `127.0.0.1:50051`.

use std::error::Error;
use std::time::Duration;

use headswap_client::{connect_classifier, describe_status};
use headswap_proto::classify_request::Input;
use headswap_proto::{ClassifyRequest, ClassifyResponse, OutputKind};
use tonic::{Request, Status};
use tonic_types::StatusExt as _;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let picture = arguments.next().ok_or("usage: classify PICTURE [HEAD...]")?;
    let address = std::env::var("HEADSWAP_ADDRESS").unwrap_or_else(|_| "127.0.0.1:50051".into());

    let mut request = Request::new(ClassifyRequest {
        input: Some(Input::Image(std::fs::read(picture)?.into())),
        heads: arguments.collect(),
        top_k: 3,
        ..ClassifyRequest::default()
    });
    request.set_timeout(Duration::from_secs(10));

    let mut client = connect_classifier(&address).await?;
    match client.classify(request).await {
        Ok(response) => print(&response.into_inner()),
        Err(status) => {
            print_details(&status);
            return Err(describe_status(&status).into());
        }
    }
    Ok(())
}

fn print(response: &ClassifyResponse) {
    for result in &response.results {
        // Of several heads, some can fail while the call succeeds.
        if let Some(error) = &result.error {
            eprintln!("{}: {}", result.head, error.message);
            continue;
        }
        println!("{}, version {}", result.head, result.version);
        for prediction in &result.predictions {
            let index = prediction.index.to_string();
            let name = match prediction.label.as_str() {
                "" => &index,
                label => label,
            };
            // Some heads answer values, which are no probabilities.
            if prediction.kind() == OutputKind::Linear {
                println!("  {:8.4}  {name}", prediction.value);
            } else {
                println!("  {:5.1} %  {name}", 100.0 * prediction.probability);
            }
        }
    }
}

/// Prints what a client can act on.
fn print_details(status: &Status) {
    let details = status.get_error_details();
    for violation in details.bad_request().iter().flat_map(|detail| &detail.field_violations) {
        eprintln!("fix the field {}: {}", violation.field, violation.description);
    }
    for violation in details.quota_failure().iter().flat_map(|detail| &detail.violations) {
        eprintln!("exceeded {}: {}", violation.subject, violation.description);
    }
    if let Some(resource) = details.resource_info() {
        eprintln!("no {} {}", resource.resource_type, resource.resource_name);
    }
    if let Some(delay) = details.retry_info().and_then(|detail| detail.retry_delay) {
        eprintln!("try again after {delay:?}");
    }
}
