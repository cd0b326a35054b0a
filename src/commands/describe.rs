//! `headswap describe`.

use clap::Args;
use headswap_checkpoint::excerpt;
use headswap_proto::{Backbone, DescribeModelRequest, DescribeModelResponse, Parameter};
use serde_json::json;

use crate::commands::address::AdminAddress;
use crate::commands::error::CliError;
use crate::commands::output::{print_json, print_line, print_table, table};

/// Shows a running server's layers as PyTorch prints them, every parameter, and what a live head overrides.
#[derive(Args, Debug)]
pub(super) struct DescribeArgs {
    /// The head whose overrides are marked [default: default, if it stands on the backbone]
    #[arg(long, default_value = "", hide_default_value = true)]
    head: String,
    /// The backbone [default: that of --head, or else the server's first]
    #[arg(long, default_value = "", hide_default_value = true, value_name = "NAME")]
    backbone: String,
    /// JSON instead of tables
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    address: AdminAddress,
}

pub(super) async fn run(args: DescribeArgs) -> Result<(), CliError> {
    let request = DescribeModelRequest {
        head: args.head,
        backbone: args.backbone,
    };
    let model = args
        .address
        .connect()
        .await?
        .describe_model(request)
        .await?
        .into_inner();
    if args.json {
        return print_json(&to_json(&model));
    }
    print_line(format_args!("{}\n", model.layers))?;
    let head = model
        .head
        .as_ref()
        .map(|head| format!("{}@{}", head.head, head.version))
        .unwrap_or_default();
    let mut rows = table(&["parameter", "shape", "count", "from"]);
    for parameter in &model.parameters {
        let from = if parameter.overridden {
            head.as_str()
        } else {
            "backbone"
        };
        let shape = format!("{:?}", parameter.shape);
        rows.add_row([&parameter.name, &shape, &grouped(parameter.count), from]);
    }
    print_table(&rows)?;
    let overridden: u64 = model.parameters.iter().filter(|p| p.overridden).map(|p| p.count).sum();
    // Of VGG16's layers, and of its own.
    let of_head = model.head.as_ref().map_or(overridden, |head| head.resident_bytes / 4);
    let count = grouped(model.parameter_count - overridden + of_head);
    match &model.head {
        Some(_) => print_line(format_args!(
            "\n{count} parameters, {} of them {head}'s",
            grouped(of_head)
        ))?,
        None => print_line(format_args!("\n{count} parameters"))?,
    }
    if let Some(described) = &model.head {
        print_line(format_args!("spec      {head}: {}", described.spec_json))?;
        for assumed in &described.assumed {
            print_line(format_args!("assumed   {}", excerpt(assumed)))?;
        }
    }
    print_line(format_args!("weights   {} ({})", model.weights, model.backbone_digest))?;
    if model.backbones.len() > 1 {
        print_backbones(&model)?;
    }
    print_line(format_args!(
        "computes  on {} in {}, batches of up to {}",
        model.device, model.precision, model.max_batch
    ))
}

/// 138357544 as 138,357,544.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .map(|group| std::str::from_utf8(group).unwrap_or_default())
        .collect();
    groups.join(",")
}

fn to_json(model: &DescribeModelResponse) -> serde_json::Value {
    json!({
        "layers": model.layers,
        "parameters": model.parameters.iter().map(parameter_json).collect::<Vec<_>>(),
        "parameter_count": model.parameter_count,
        "backbone_digest": model.backbone_digest,
        "weights": model.weights,
        "backbone": model.backbone,
        "backbones": model.backbones.iter().map(backbone_json).collect::<Vec<_>>(),
        "device": model.device,
        "precision": model.precision,
        "max_batch": model.max_batch,
        "head": model.head.as_ref().map(|head| json!({
            "head": head.head, "version": head.version,
            "spec": serde_json::from_str::<serde_json::Value>(&head.spec_json).unwrap_or_default(),
            "assumed": head.assumed,
        })),
    })
}

fn print_backbones(model: &DescribeModelResponse) -> Result<(), CliError> {
    for backbone in &model.backbones {
        let Backbone {
            name, weights, digest, ..
        } = backbone;
        let is_described = if *name == model.backbone { " (this one)" } else { "" };
        let features = if backbone.has_features {
            ""
        } else {
            ", without features"
        };
        print_line(format_args!(
            "backbone  {name}{is_described}: {weights} ({digest}){features}"
        ))?;
    }
    Ok(())
}

fn backbone_json(backbone: &Backbone) -> serde_json::Value {
    json!({
        "name": backbone.name, "digest": backbone.digest, "weights": backbone.weights,
        "has_features": backbone.has_features,
    })
}

fn parameter_json(parameter: &Parameter) -> serde_json::Value {
    let Parameter {
        name,
        shape,
        count,
        overridden,
        ..
    } = parameter;
    json!({ "name": name, "shape": shape, "count": count, "overridden": overridden })
}
