//! A gRPC call by the h2 crate. Unlike tonic's client, it can leave a response unread, and it leaves deadlines to the server.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use futures::FutureExt as _;
use h2::client::ResponseFuture;
use h2::{RecvStream, SendStream, client};
use http::{HeaderMap, Request, Response, StatusCode};
use prost::Message;
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::Code;

/// The client's receive window once it reads.
const WINDOW_BYTES: u32 = 1 << 20;

/// A call on a connection of its own, which is closed when the call is dropped. The receive window is empty until
/// [`RawCall::end`], so that the server can send only headers.
pub struct RawCall {
    requests: SendStream<Bytes>,
    response: ResponseFuture,
    /// Set once the headers have arrived.
    headers: Option<Response<RecvStream>>,
    read: oneshot::Sender<()>,
    _connection: JoinSet<()>,
}

/// A call that has ended.
#[derive(Debug)]
pub struct Ended<T> {
    pub messages: Vec<T>,
    pub code: Code,
    pub message: String,
}

impl RawCall {
    /// Opens a call of ClassifierService. `timeout` is the value of `grpc-timeout`.
    pub async fn open(address: &str, method: &str, timeout: Option<&str>) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let mut builder = client::Builder::new();
        builder.initial_window_size(0);
        let (client, connection) = builder.handshake(socket).await.unwrap();
        let (read, when_read) = oneshot::channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(drive(connection, when_read));
        let mut request = Request::post(format!("http://{address}/headswap.v1.ClassifierService/{method}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        if let Some(timeout) = timeout {
            request = request.header("grpc-timeout", timeout);
        }
        let request = request.body(()).unwrap();
        let mut client = client.ready().await.unwrap();
        let (response, requests) = client.send_request(request, false).unwrap();
        Self {
            requests,
            response,
            headers: None,
            read,
            _connection: tasks,
        }
    }

    /// Sends a message as soon as the server's receive window allows it.
    pub fn send(&mut self, message: &impl Message) {
        let bytes = message.encode_to_vec();
        let mut framed = BytesMut::with_capacity(5 + bytes.len());
        framed.put_u8(0);
        framed.put_u32(bytes.len() as u32);
        framed.put_slice(&bytes);
        self.requests.send_data(framed.freeze(), false).unwrap();
    }

    /// Ends the requests.
    pub fn finish(&mut self) {
        self.requests.send_data(Bytes::new(), true).unwrap();
    }

    /// Returns once the server has sent the response's headers, which need no receive window.
    pub async fn wait_for_headers(&mut self) {
        let response = (&mut self.response).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        self.headers = Some(response);
    }

    /// Reads until the server ends the call.
    pub async fn end<T: Message + Default>(self) -> Ended<T> {
        let _ = self.read.send(());
        let response = match self.headers {
            Some(response) => response,
            None => self.response.await.unwrap(),
        };
        let headers = response.headers().clone();
        let mut body = response.into_body();
        let mut received = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            received.put(data);
        }
        let trailers = body.trailers().await.unwrap();
        let (code, message) = status(&trailers.unwrap_or(headers));
        let mut messages = Vec::new();
        while !received.is_empty() {
            assert_eq!(received.get_u8(), 0, "not compressed");
            let length = received.get_u32() as usize;
            messages.push(T::decode(received.split_to(length)).unwrap());
        }
        Ended {
            messages,
            code,
            message,
        }
    }
}

/// Drives a connection, and opens the receive windows on the signal `when_read`.
async fn drive(mut connection: client::Connection<TcpStream, Bytes>, when_read: oneshot::Receiver<()>) {
    tokio::select! {
        _ = &mut connection => return,
        read = when_read => if read.is_err() {
            let _ = connection.await;
            return;
        }
    }
    // New settings must wait until the server has acknowledged the previous ones.
    let ended = poll_fn(|context| {
        if connection.poll_unpin(context).is_ready() {
            return Poll::Ready(true);
        }
        match connection.set_initial_window_size(WINDOW_BYTES) {
            Ok(()) => Poll::Ready(false),
            Err(_) => Poll::Pending,
        }
    });
    if !ended.await {
        let _ = connection.await;
    }
}

fn status(headers: &HeaderMap) -> (Code, String) {
    let message = field(headers, "grpc-message").replace("%20", " ");
    let code = Code::from_bytes(field(headers, "grpc-status").as_bytes());
    (code, message)
}

fn field<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name).map(|value| value.to_str().unwrap());
    value.unwrap_or_default()
}
