//! The body of an agent's stream, with a limit on how long one message may take to arrive.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http_body::{Frame, SizeHint};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Bytes;

use crate::limits::MESSAGE_TIME_MAX;

/// Fails when a message that has begun is not there after [`MESSAGE_TIME_MAX`] of waiting for it. The time while nobody
/// asks for more is not the peer's: it begins with the first wait for the message.
#[derive(Debug)]
pub(super) struct Paced {
    body: Body,
    framing: Framing,
    late: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    pub(super) fn new(body: Body) -> Self {
        Self { body, framing: Framing::default(), late: None }
    }
}

impl http_body::Body for Paced {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            if let Some(Ok(frame)) = &frame
                && let Some(bytes) = frame.data_ref()
                && this.framing.read(bytes)
            {
                this.late = None;
            }
            return Poll::Ready(frame);
        }
        if this.framing.is_between_messages() {
            return Poll::Pending;
        }
        let late = this.late.get_or_insert_with(|| Box::pin(sleep(MESSAGE_TIME_MAX)));
        ready!(late.as_mut().poll(context));
        let seconds = MESSAGE_TIME_MAX.as_secs();
        let text = format!("a message was begun and not ended within {seconds} s");
        Poll::Ready(Some(Err(Status::deadline_exceeded(text))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Where gRPC's messages begin and end: each has a byte of flags and four of its length before it.
#[derive(Debug, Default)]
struct Framing {
    header: [u8; 5],
    /// Bytes of the next header that are there.
    header_bytes: usize,
    /// Bytes of the message that are missing.
    missing: u64,
}

impl Framing {
    const fn is_between_messages(&self) -> bool {
        self.header_bytes == 0 && self.missing == 0
    }

    /// Answers whether `bytes` ended a message.
    fn read(&mut self, mut bytes: &[u8]) -> bool {
        let mut ended = false;
        while !bytes.is_empty() {
            if self.missing > 0 {
                let there = u64::try_from(bytes.len()).unwrap_or(u64::MAX).min(self.missing);
                self.missing -= there;
                bytes = &bytes[usize::try_from(there).unwrap_or(bytes.len())..];
                ended |= self.missing == 0;
                continue;
            }
            self.header[self.header_bytes] = bytes[0];
            self.header_bytes += 1;
            bytes = &bytes[1..];
            if self.header_bytes == self.header.len() {
                let [_, length @ ..] = self.header;
                self.missing = u32::from_be_bytes(length).into();
                self.header_bytes = 0;
                ended |= self.missing == 0;
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::time::Duration;

    use http_body::Body as _;
    use tokio::sync::mpsc;

    #[test]
    fn messages_end_where_their_headers_say() {
        let mut framing = Framing::default();
        assert!(framing.is_between_messages());
        assert!(!framing.read(&[0, 0, 0]));
        assert!(!framing.is_between_messages());
        assert!(!framing.read(&[0, 2, 7]));
        assert!(framing.read(&[7]));
        assert!(framing.is_between_messages());
        assert!(framing.read(&[0, 0, 0, 0, 0]), "an empty message");
        assert!(framing.is_between_messages());
        assert!(framing.read(&[0, 0, 0, 0, 1, 9, 0]), "the end of one and the start of another");
        assert!(!framing.is_between_messages());
        assert!(!framing.read(&[0xff; 4]));
        assert!(!framing.read(&[0; 1000]));
    }

    /// Frames that come when they are sent.
    struct Given(mpsc::Receiver<Vec<u8>>);

    impl http_body::Body for Given {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let bytes = self.0.poll_recv(context);
            bytes.map(|bytes| bytes.map(|bytes| Ok(Frame::data(Bytes::from(bytes)))))
        }
    }

    async fn next(body: &mut Paced) -> Option<Result<Bytes, Status>> {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        frame.map(|frame| frame.map(|frame| frame.into_data().unwrap()))
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_message_is_not_waited_for_without_end() {
        let (sender, given) = mpsc::channel(1);
        let mut body = Paced::new(Body::new(Given(given)));
        // Silence between messages may last.
        let silence = tokio::time::timeout(Duration::from_secs(3600), next(&mut body)).await;
        assert!(silence.is_err());
        let trickle = tokio::spawn(async move {
            sender.send(vec![0, 0, 0, 1, 0]).await.unwrap();
            while sender.send(vec![1]).await.is_ok() {
                sleep(Duration::from_secs(1)).await;
            }
        });
        let mut bytes = 0;
        let end = loop {
            match next(&mut body).await.unwrap() {
                Ok(taken) => bytes += taken.len(),
                Err(status) => break status,
            }
        };
        assert_eq!(end.code(), tonic::Code::DeadlineExceeded);
        assert!((30..40).contains(&bytes), "{bytes}");
        trickle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_not_asked_is_not_late() {
        let (sender, given) = mpsc::channel(4);
        let mut body = Paced::new(Body::new(Given(given)));
        sender.send(vec![0, 0, 0, 0, 2, 1]).await.unwrap();
        next(&mut body).await.unwrap().unwrap();
        sleep(MESSAGE_TIME_MAX * 2).await;
        sender.send(vec![2]).await.unwrap();
        next(&mut body).await.unwrap().unwrap();
    }
}
