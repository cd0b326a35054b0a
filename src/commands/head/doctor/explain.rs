//! The pictures on which two recipes disagree, as one HTML file.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use headswap_client::ClientError;
use headswap_doctor::{Diagnosis, Evidence, Truth};

use super::known::Known;
use super::patient::Patient;
use super::report::describe;
use crate::commands::error::CliError;

/// Pictures that are shown at most, those with the largest differences.
const SHOWN: usize = 24;
/// Classes of each answer that are shown.
const CLASSES: usize = 3;

const HEAD: &str = "<!doctype html><meta charset=utf-8><title>headswap head doctor</title><style>\
    body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}\
    table{border-collapse:collapse;width:100%}td,th{padding:.5rem;border-top:1px solid #ccc;vertical-align:top;text-align:left}\
    img{max-width:220px;max-height:220px}.right{color:#17692f}.wrong{color:#a11}small{color:#666}</style>\n";

/// Writes the page.
pub fn write(
    path: &Path,
    patient: &Patient,
    known: &Known,
    evidence: &Evidence,
    diagnosis: &Diagnosis,
) -> Result<(), CliError> {
    let page = page(patient, known, evidence, diagnosis);
    fs::write(path, page).map_err(|error| ClientError::unreadable(path, error).into())
}

fn page(patient: &Patient, known: &Known, evidence: &Evidence, diagnosis: &Diagnosis) -> String {
    let mut html = HEAD.to_owned();
    let mut others = diagnosis.candidates.iter().skip(1).filter(|candidate| !candidate.alike);
    let (Some(best), Some(other)) = (diagnosis.candidates.first(), others.next()) else {
        html.push_str("<p>All recipes that were tried answer alike on these pictures.</p>\n");
        return html;
    };
    let names = [best, other].map(|candidate| describe(patient, candidate));
    let answers = [best, other].map(|candidate| evidence.answers(&candidate.fit));
    let mut differing = Vec::new();
    for (picture, (own, others)) in answers[0].iter().zip(&answers[1]).enumerate() {
        let pairs = own.iter().zip(others);
        let difference = pairs.map(|(own, other)| (own - other).abs()).fold(0.0, f64::max);
        let disagree = top(own) != top(others);
        differing.push((disagree, difference, picture));
    }
    differing.sort_by(|a, b| (b.0, b.1).partial_cmp(&(a.0, a.1)).unwrap_or(std::cmp::Ordering::Equal));
    let disagreeing = differing.iter().filter(|(disagree, ..)| *disagree).count();
    let _ = writeln!(
        html,
        "<h1>Where the two best recipes differ</h1><p>{disagreeing} of {} pictures get another first class; the others are in the \
         order of their largest difference.</p><table><tr><th>picture<th>{}<th>{}",
        differing.len(),
        escaped(&names[0]),
        escaped(&names[1])
    );
    for (_, difference, picture) in differing.into_iter().take(SHOWN) {
        let _ = write!(
            html,
            "<tr><td><img src=\"data:image/*;base64,{}\" alt=\"\"><br><small>{}<br>{}, difference {difference:.3}</small>",
            BASE64.encode(&known.pictures[picture]),
            escaped(&known.paths[picture].display().to_string()),
            escaped(&truth(known, &evidence.truths[picture]))
        );
        for (candidate, answers) in [best, other].into_iter().zip(&answers) {
            let class = if candidate.fit.hits[picture] { "right" } else { "wrong" };
            let rows = &evidence.orders[candidate.fit.order].rows;
            let _ = write!(html, "<td class={class}>{}", classes(known, rows, &answers[picture]));
        }
        html.push('\n');
    }
    html.push_str("</table>\n");
    html
}

fn top(answers: &[f64]) -> usize {
    let best = answers.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(row, value)| {
        if answers.len() == 1 {
            usize::from(*value > 0.5)
        } else {
            row
        }
    })
}

fn truth(known: &Known, truth: &Truth) -> String {
    match truth {
        Truth::Class(name) => format!("known: {}", known.names.get(*name).map_or("", String::as_str)),
        Truth::Numbers(numbers) => {
            let shown: Vec<String> = numbers
                .iter()
                .take(CLASSES)
                .map(|number| format!("{number:.3}"))
                .collect();
            format!("known: {}", shown.join(", "))
        }
    }
}

/// The likeliest classes with their probabilities.
fn classes(known: &Known, rows: &[usize], answers: &[f64]) -> String {
    let mut ranked: Vec<(usize, f64)> = answers.iter().copied().enumerate().collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut lines = String::new();
    for (row, answer) in ranked.into_iter().take(CLASSES) {
        let name = rows
            .iter()
            .position(|own| *own == row)
            .and_then(|name| known.names.get(name));
        let name = name.map_or_else(|| format!("output {row}"), |name| escaped(name));
        let _ = write!(lines, "{name} {answer:.3}<br>");
    }
    lines
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_become_markup() {
        assert_eq!(escaped("<img src=\"x\">&"), "&lt;img src=&quot;x&quot;&gt;&amp;");
    }
}
