//! A stream whose client does not read, or hardly: by the h2 crate, since gRPC clients read ahead.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use h2::client::{self, Connection, ResponseFuture};
use h2::{RecvStream, SendStream};
use headswap_proto::{ClassifyStreamRequest, ClassifyStreamResponse};
use http::Request;
use prost::Message as _;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tonic::Code;

use crate::commands::error::CliError;

/// A stream's window as HTTP/2 has it by default (RFC 9113, section 6.5.2).
const WINDOW_BYTES: u32 = 65_535;
/// And once the client reads.
const OPEN_WINDOW_BYTES: u32 = 1 << 20;
/// How often a slow reader reads a byte.
const BYTE_EVERY: Duration = Duration::from_secs(1);

/// How a client reads until the end of the measurement, when it reads everything.
#[derive(Clone, Copy, Debug)]
pub(super) enum Reading {
    /// Not at all.
    Nothing,
    /// One byte a second.
    Slowly,
}

/// A stream under way. Dropped, its connection is closed.
pub(super) struct UnreadStream {
    read_all: oneshot::Sender<()>,
    reader: JoinHandle<Result<Received, CliError>>,
    /// What drives the connection, and what sends.
    tasks: JoinSet<()>,
}

/// What a stream's client got in the end.
#[derive(Debug)]
pub(super) struct Received {
    pub code: Code,
    pub answers: u64,
    /// The longest forward pass of any answer's batch.
    pub longest: Duration,
}

impl UnreadStream {
    /// Opens a stream with this deadline and sends the requests as far as the server takes them.
    pub async fn start(
        address: String,
        requests: Vec<ClassifyStreamRequest>,
        deadline_s: u64,
        reading: Reading,
    ) -> Result<Self, CliError> {
        let socket = TcpStream::connect(&address).await?;
        socket.set_nodelay(true)?;
        let mut builder = client::Builder::new();
        builder.initial_window_size(match reading {
            Reading::Nothing => WINDOW_BYTES,
            // A window is only given back in halves, so a reader of single bytes has a window of one.
            Reading::Slowly => 1,
        });
        // Unread answers are this client's purpose, not an attack on it.
        builder.data_frame_budget(usize::MAX);
        let (client, connection) = builder.handshake(socket).await.map_err(failed)?;
        let request = Request::post(format!("http://{address}/headswap.v1.ClassifierService/ClassifyStream"))
            .header("te", "trailers")
            .header("content-type", "application/grpc")
            .header("grpc-timeout", format!("{deadline_s}S"))
            .body(());
        let request = request.map_err(|error| CliError::Failed(error.to_string()))?;
        let (read_all, when_reading) = oneshot::channel();
        let (open, when_open) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(connection, when_open));
        let mut client = client.ready().await.map_err(failed)?;
        let (response, body) = client.send_request(request, false).map_err(failed)?;
        tasks.spawn(send_all(body, requests));
        let reader = Reader {
            response,
            reading,
            when_reading,
            open,
        };
        Ok(Self {
            read_all,
            reader: tokio::spawn(reader.run()),
            tasks,
        })
    }

    /// Reads what the server has to say, to its end.
    pub async fn read_all(mut self) -> Result<Received, CliError> {
        let _ = self.read_all.send(());
        let received = self.reader.await;
        self.tasks.abort_all();
        received.map_err(|error| CliError::Failed(format!("a reader stopped: {error}")))?
    }
}

/// The receiving side of a stream.
struct Reader {
    response: ResponseFuture,
    reading: Reading,
    when_reading: oneshot::Receiver<()>,
    open: oneshot::Sender<()>,
}

impl Reader {
    async fn run(mut self) -> Result<Received, CliError> {
        let response = self.response.await.map_err(failed)?;
        let headers = response.headers().clone();
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        match self.reading {
            Reading::Nothing => drop((&mut self.when_reading).await),
            Reading::Slowly => {
                tokio::select! {
                    read = read_slowly(&mut body, &mut bytes) => read?,
                    _ = &mut self.when_reading => {}
                }
            }
        }
        let _ = self.open.send(());
        while let Some(data) = body.data().await {
            let data = data.map_err(failed)?;
            body.flow_control().release_capacity(data.len()).map_err(failed)?;
            bytes.put(data);
        }
        let trailers = body.trailers().await.map_err(failed)?.unwrap_or(headers);
        let code = trailers
            .get("grpc-status")
            .map_or(Code::Unknown, |status| Code::from_bytes(status.as_bytes()));
        received(code, bytes)
    }
}

/// Drives a connection, and opens its streams' windows when told to.
async fn drive(mut connection: Connection<TcpStream, Bytes>, when_open: oneshot::Receiver<()>) {
    tokio::select! {
        _ = &mut connection => return,
        _ = when_open => {}
    }
    if connection.set_initial_window_size(OPEN_WINDOW_BYTES).is_ok() {
        // Its streams get the error that ends it.
        let _ = connection.await;
    }
}

/// Sends the requests as far as the server's window lets them through, until the stream ends.
async fn send_all(mut body: SendStream<Bytes>, requests: Vec<ClassifyStreamRequest>) {
    for request in requests {
        let mut message = framed(&request);
        while !message.is_empty() {
            body.reserve_capacity(message.len());
            let capacity = std::future::poll_fn(|context| body.poll_capacity(context)).await;
            let Some(Ok(capacity)) = capacity else { return };
            let part = message.split_to(capacity.min(message.len()));
            if body.send_data(part, false).is_err() {
                return;
            }
        }
    }
    // The stream stays open, so that its deadline ends it. Without this it would be reset.
    let _ = std::future::poll_fn(|context| body.poll_reset(context)).await;
}

/// Reads a byte now and then, until the server ends the stream.
async fn read_slowly(body: &mut RecvStream, bytes: &mut BytesMut) -> Result<(), CliError> {
    let mut every = tokio::time::interval(BYTE_EVERY);
    while let Some(data) = body.data().await {
        let data = data.map_err(failed)?;
        let length = data.len();
        // Kept before anything is awaited, where reading may be given up.
        bytes.put(data);
        every.tick().await;
        body.flow_control().release_capacity(length).map_err(failed)?;
    }
    Ok(())
}

/// A message as gRPC sends it (doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message").
fn framed(request: &ClassifyStreamRequest) -> Bytes {
    let length = request.encoded_len();
    let mut message = BytesMut::with_capacity(5 + length);
    message.put_u8(0);
    message.put_u32(length as u32);
    message.put_slice(&request.encode_to_vec());
    message.freeze()
}

/// Counts the answers in what was received.
fn received(code: Code, mut bytes: BytesMut) -> Result<Received, CliError> {
    let (mut answers, mut compute_us_max) = (0, 0);
    while bytes.len() >= 5 {
        bytes.advance(1);
        let length = bytes.get_u32() as usize;
        if bytes.len() < length {
            return Err(CliError::Failed("a stream ended within an answer".into()));
        }
        let answer = ClassifyStreamResponse::decode(bytes.split_to(length));
        let answer = answer.map_err(|error| CliError::Failed(error.to_string()))?;
        let timing = answer.response.and_then(|response| response.timing);
        compute_us_max = compute_us_max.max(timing.map_or(0, |timing| timing.compute_us));
        answers += 1;
    }
    Ok(Received {
        code,
        answers,
        longest: Duration::from_micros(compute_us_max),
    })
}

fn failed(error: h2::Error) -> CliError {
    CliError::Failed(format!("a stream's connection failed: {error}"))
}
