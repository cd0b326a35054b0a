//! Getting a file over HTTP, and going on where a broken connection left off (RFC 9110, section 14).

use std::io::{self, Read as _};
use std::thread;
use std::time::Duration;

use indicatif::ProgressBar;
use ureq::http::{HeaderMap, Response, StatusCode, header};
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Body};

use super::partial::Partial;
use crate::commands::output::note;

/// A file of weights is not larger; a server may not fill the disk.
const BYTES_MAX: u64 = 64 << 30;
/// How long a connection may take to come about, or be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// Answers that may be others soon, besides server errors.
const PASSING: [StatusCode; 2] = [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS];

/// How often to try again, and when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Retries {
    /// Attempts in a row that bring nothing new, after the first.
    pub max: u32,
    /// Before the first; each further one waits twice as long.
    pub delay: Duration,
}

/// Why a file could not be had.
#[derive(Debug, thiserror::Error)]
pub(super) enum DownloadError {
    #[error("{url} answers {status}; check the URL, or give another with --url or --mirror")]
    Status { url: String, status: StatusCode },
    #[error("{url} cannot be fetched: {reason}; run the same command again to resume{kept}")]
    Broken { url: String, reason: String, kept: String },
    #[error("{url} is not a URL that can be fetched: {reason}; give one that starts with https:// or http://")]
    Url { url: String, reason: String },
    #[error("{url} is larger than {BYTES_MAX} bytes; give the URL of a file of weights")]
    TooLarge { url: String },
    #[error("cannot write {path}: {source}")]
    Write { path: String, source: io::Error },
}

/// An attempt that did not bring the whole file.
enum Failure {
    /// Another may.
    Passing(String),
    Lasting(DownloadError),
}

/// Fetches what `partial` lacks of the file at `url`.
pub(super) fn download(
    url: &str,
    partial: &mut Partial,
    retries: Retries,
    bar: &ProgressBar,
) -> Result<(), DownloadError> {
    let agent = agent();
    let mut in_vain = 0;
    loop {
        let before = partial.length();
        let reason = match attempt(&agent, url, partial, bar) {
            Ok(()) => return Ok(()),
            Err(Failure::Lasting(error)) => return Err(error),
            Err(Failure::Passing(reason)) => reason,
        };
        in_vain = if partial.length() > before { 0 } else { in_vain + 1 };
        if in_vain > retries.max {
            let kept = match partial.length() {
                0 => String::new(),
                length => format!(", {length} bytes are kept in {}", partial.path().display()),
            };
            let url = url.to_owned();
            return Err(DownloadError::Broken { url, reason, kept });
        }
        bar.suspend(|| note(format_args!("{reason}; trying again")));
        thread::sleep(retries.delay * 2u32.pow(in_vain.saturating_sub(1).min(6)));
    }
}

fn agent() -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_resolve(Some(SILENCE_MAX))
        .timeout_connect(Some(SILENCE_MAX))
        .timeout_recv_response(Some(SILENCE_MAX))
        .timeout_per_read(Some(SILENCE_MAX))
        .tls_config(TlsConfig::builder().root_certs(root_certificates()).build())
        .user_agent(concat!("headswap/", env!("CARGO_PKG_VERSION")));
    config.build().into()
}

/// The system's, among which may be a company's own; where there are none, as in small containers, Mozilla's.
fn root_certificates() -> RootCerts {
    let system = rustls_native_certs::load_native_certs().certs;
    if system.is_empty() {
        return RootCerts::WebPki;
    }
    system.iter().map(|der| Certificate::from_der(der).to_owned()).into()
}

fn attempt(agent: &Agent, url: &str, partial: &mut Partial, bar: &ProgressBar) -> Result<(), Failure> {
    // The bytes are wanted as they are: offsets into an encoding would mean nothing.
    let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
    if partial.length() > 0 {
        request = request.header(header::RANGE, format!("bytes={}-", partial.length()));
        if let Some(etag) = partial.etag() {
            request = request.header(header::IF_RANGE, etag);
        }
    }
    let response = request.call().map_err(|error| match error {
        ureq::Error::BadUri(reason) => not_a_url(url, reason),
        ureq::Error::Http(error) => not_a_url(url, error.to_string()),
        error => Failure::Passing(error.to_string()),
    })?;
    let total = match accept(&response, url, partial)? {
        Answer::Body(total) => total,
        Answer::NothingMissing => return Ok(()),
    };
    if total.is_some_and(|total| total > BYTES_MAX) {
        return Err(too_large(url));
    }
    bar.set_length(total.unwrap_or(0));
    receive(response, url, partial, bar)?;
    match total {
        Some(total) if partial.length() < total => Err(Failure::Passing("the connection broke off".into())),
        _ => Ok(()),
    }
}

/// What the status and headers of a response say.
enum Answer {
    /// The body goes where `partial` ends; the whole file's length, if known.
    Body(Option<u64>),
    NothingMissing,
}

fn accept(response: &Response<Body>, url: &str, partial: &mut Partial) -> Result<Answer, Failure> {
    let headers = response.headers();
    let kept = partial.length();
    let mut restart = |etag: Option<&str>| {
        let done = partial.restart(etag);
        done.map_err(|source| cannot_write(partial, source))
    };
    match response.status() {
        StatusCode::PARTIAL_CONTENT => match content_range(headers) {
            Some((Some(start), total)) if start == kept => Ok(Answer::Body(total)),
            _ => {
                restart(None)?;
                Err(Failure::Passing(
                    "the server sent another part than was asked for".into(),
                ))
            }
        },
        // The whole: the first request, a server that knows no parts, or a file that has changed.
        StatusCode::OK => {
            restart(strong_etag(headers))?;
            Ok(Answer::Body(content_length(headers)))
        }
        // Nothing lies behind what is there: it was all, or it is of another file.
        StatusCode::RANGE_NOT_SATISFIABLE => match content_range(headers) {
            Some((None, Some(total))) if total == kept => Ok(Answer::NothingMissing),
            _ => {
                restart(None)?;
                Err(Failure::Passing("the part that was kept is not of this file".into()))
            }
        },
        status if status.is_server_error() || PASSING.contains(&status) => {
            Err(Failure::Passing(format!("the server answers {status}")))
        }
        status => Err(Failure::Lasting(DownloadError::Status {
            url: url.to_owned(),
            status,
        })),
    }
}

/// Appends the body as it comes.
fn receive(response: Response<Body>, url: &str, partial: &mut Partial, bar: &ProgressBar) -> Result<(), Failure> {
    let mut body = response.into_body().into_reader();
    let mut block = vec![0; 256 * 1024];
    loop {
        bar.set_position(partial.length());
        let length = match body.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failure::Passing(format!("the connection broke off ({error})"))),
        };
        if partial.length() + length as u64 > BYTES_MAX {
            return Err(too_large(url));
        }
        let done = partial.append(&block[..length]);
        done.map_err(|source| cannot_write(partial, source))?;
    }
}

fn not_a_url(url: &str, reason: String) -> Failure {
    let url = url.to_owned();
    Failure::Lasting(DownloadError::Url { url, reason })
}

fn too_large(url: &str) -> Failure {
    Failure::Lasting(DownloadError::TooLarge { url: url.to_owned() })
}

fn cannot_write(partial: &Partial, source: io::Error) -> Failure {
    let path = partial.path().display().to_string();
    Failure::Lasting(DownloadError::Write { path, source })
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

fn content_length(headers: &HeaderMap) -> Option<u64> {
    text(headers, header::CONTENT_LENGTH)?.parse().ok()
}

/// Weak ones (`W/"…"`) promise too little to go on with.
fn strong_etag(headers: &HeaderMap) -> Option<&str> {
    text(headers, header::ETAG).filter(|etag| etag.starts_with('"'))
}

/// `bytes 5-9/10` and `bytes */10`: where the part starts, if there is one, and the whole length, if known.
fn content_range(headers: &HeaderMap) -> Option<(Option<u64>, Option<u64>)> {
    let (range, total) = text(headers, header::CONTENT_RANGE)?
        .strip_prefix("bytes ")?
        .split_once('/')?;
    let start = range.split_once('-').and_then(|(start, _)| start.parse().ok());
    Some((start, total.parse().ok()))
}
