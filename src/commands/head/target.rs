//! The backbone that a head is pushed to.

use headswap_client::{Admin, HeadFile};
use headswap_proto::{Backbone, DescribeModelRequest, DescribeModelResponse, Parameter};

use crate::commands::error::CliError;

/// A backbone, as a push needs it.
pub(super) struct Target {
    /// Its name for the server; empty leaves the choice to the server.
    pub name: String,
    /// The parameters that need not be sent where they are equal, and those whose shapes are known.
    pub parameters: Vec<Parameter>,
}

impl Target {
    /// Chooses the backbone that is named, or the one with which the file shares most, or the server's first.
    pub async fn choose(client: &mut Admin, file: &HeadFile, named: Option<&str>) -> Result<Self, CliError> {
        let model = describe(client, named).await?;
        let chosen = match named {
            Some(name) => model.backbones.iter().find(|backbone| backbone.name == name),
            None => file.nearest(&model.backbones),
        };
        let Some(backbone) = chosen.or(model.backbones.first()) else {
            // Older releases have one backbone without a name.
            return Ok(Self {
                name: String::new(),
                parameters: model.parameters,
            });
        };
        let name = match chosen {
            Some(chosen) if model.backbones.len() > 1 => chosen.name.clone(),
            _ => String::new(),
        };
        Ok(Self {
            name,
            parameters: with_last_linear(backbone, model.parameters),
        })
    }

    /// Checks that the server has a backbone of this name, if one is given.
    pub async fn check(client: &mut Admin, named: Option<&str>) -> Result<(), CliError> {
        if named.is_some() {
            describe(client, named).await?;
        }
        Ok(())
    }
}

async fn describe(client: &mut Admin, named: Option<&str>) -> Result<DescribeModelResponse, CliError> {
    let request = DescribeModelRequest {
        backbone: named.unwrap_or_default().to_owned(),
        ..DescribeModelRequest::default()
    };
    let model = client.describe_model(request).await?.into_inner();
    match named {
        Some(name) if model.backbone != name => Err(CliError::Failed(
            "the server is of a release that has one backbone alone; leave out --backbone".into(),
        )),
        _ => Ok(model),
    }
}

/// Returns a backbone's parameters, and the last Linear's, whose columns are known.
fn with_last_linear(backbone: &Backbone, described: Vec<Parameter>) -> Vec<Parameter> {
    let mut parameters = backbone.parameters.clone();
    for parameter in described {
        if parameter.digest.is_empty() && parameters.iter().all(|known| known.name != parameter.name) {
            parameters.push(parameter);
        }
    }
    parameters
}
