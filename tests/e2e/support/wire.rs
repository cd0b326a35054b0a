//! Hand-written HTTP/2 frames, for what client libraries refuse to send, and calls by the h2 crate, for what gRPC clients refuse.

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tonic::Status;

pub const CLASSIFY: &str = "/headswap.v1.ClassifierService/Classify";
pub const CLASSIFY_STREAM: &str = "/headswap.v1.ClassifierService/ClassifyStream";
pub const LIST_HEADS: &str = "/headswap.v1.HeadAdminService/ListHeads";
pub const UPLOAD_HEAD: &str = "/headswap.v1.HeadAdminService/UploadHead";
pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
pub const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
pub const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Returns the bytes that a client sends first: the preface with its SETTINGS frame.
pub fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

pub fn ping(number: u64) -> Vec<u8> {
    frame(PING, 0, 0, &number.to_be_bytes())
}

/// Returns a HEADERS frame that opens a call.
pub fn headers(stream: u32, path: &str) -> Vec<u8> {
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "localhost"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let mut block = Vec::new();
    for (name, value) in fields {
        // A literal field without indexing (RFC 7541, section 6.2.2); the lengths are below 127.
        block.extend([0, name.len() as u8]);
        block.extend(name.as_bytes());
        block.push(value.len() as u8);
        block.extend(value.as_bytes());
    }
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// Returns a RST_STREAM frame with the code CANCEL.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Returns a gRPC message with its prefix of flags and length.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    [&[0], (bytes.len() as u32).to_be_bytes().as_slice(), bytes].concat()
}

/// Returns the next frame's type, stream, flags and payload, or None at the end of the connection.
pub async fn read_frame(io: &mut (impl AsyncRead + Unpin)) -> Option<(u8, u32, u8, Vec<u8>)> {
    let mut head = [0; 9];
    io.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    io.read_exact(&mut payload).await.ok()?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    Some((head[3], stream, head[4], payload))
}

/// Sends bytes and a ping, and reads until the ping is acknowledged: then the server has read the bytes.
pub async fn send_and_ping(io: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &[u8]) {
    io.write_all(&[bytes, &ping(1)].concat()).await.unwrap();
    loop {
        let (kind, _, flags, _) = read_frame(io).await.expect("the server closed the connection");
        if (kind, flags) == (PING, ACK) {
            return;
        }
    }
}

/// An HTTP/2 connection.
#[derive(Clone)]
pub struct Client(pub SendRequest<Bytes>);

/// The response to a call.
#[derive(Debug)]
pub struct Answer {
    pub http: StatusCode,
    pub headers: HeaderMap,
    pub grpc: Option<Status>,
}

impl Client {
    pub async fn connect(address: &str) -> Self {
        let io = TcpStream::connect(address).await.unwrap();
        let (client, connection) = h2::client::handshake(io).await.unwrap();
        tokio::spawn(connection);
        Self(client.ready().await.unwrap())
    }

    pub async fn send(&self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut client = self.0.clone().ready().await.unwrap();
        client.send_request(request, end).unwrap()
    }

    /// Begins a call and sends a part of its body.
    pub async fn begin(&self, path: &str, extra: &[(&str, &str)], part: &[u8]) -> (ResponseFuture, SendStream<Bytes>) {
        let (response, mut body) = self.send(call(path, extra), false).await;
        body.send_data(Bytes::copy_from_slice(part), false).unwrap();
        (response, body)
    }

    /// Makes a call: sends the whole body and reads the response.
    pub async fn ask(&self, path: &str, extra: &[(&str, &str)], body: &[u8]) -> Answer {
        let (response, mut stream) = self.send(call(path, extra), false).await;
        // Fails if the server has already ended the call.
        let _ = stream.send_data(Bytes::copy_from_slice(body), true);
        answer(response).await
    }
}

pub fn call(path: &str, extra: &[(&str, &str)]) -> Request<()> {
    let mut request = Request::builder()
        .method(Method::POST)
        .uri(format!("http://localhost{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc");
    for (name, value) in extra {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap()
}

/// Reads a response to its end.
pub async fn answer(response: ResponseFuture) -> Answer {
    let (parts, mut body) = response.await.unwrap().into_parts();
    let mut grpc = Status::from_header_map(&parts.headers);
    if grpc.is_none() {
        read_to_end(&mut body).await;
        let trailers = body.trailers().await.unwrap();
        grpc = trailers.and_then(|trailers| Status::from_header_map(&trailers));
    }
    Answer {
        http: parts.status,
        headers: parts.headers,
        grpc,
    }
}

async fn read_to_end(body: &mut RecvStream) {
    while let Some(data) = body.data().await {
        let length = data.unwrap().len();
        let _ = body.flow_control().release_capacity(length);
    }
}
