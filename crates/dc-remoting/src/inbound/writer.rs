//! What goes back over a lane: answers, credits, pongs.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::{BACKLOG_HIGH, Back, InLane, backlog_cost};
use crate::wire::{Chunk, Frame, Goodbye, Reply};

/// Entries taken from the queue at once.
const BATCH: usize = 256;

/// A frame takes no further answers once it holds this many bytes.
const FRAME_BYTES: usize = 64 << 10;

/// A large answer on its way, piece by piece.
struct Transfer {
    number: u32,
    head: Option<Reply>,
    rest: Bytes,
}

/// The stream that tonic writes to the dialler.
pub(crate) struct BackStream {
    lane: Arc<InLane>,
    queue: mpsc::UnboundedReceiver<Back>,
    /// Taken from the queue and not sent yet, last first.
    taken: Vec<Back>,
    transfers: VecDeque<Transfer>,
    next_transfer: u32,
    first: Option<Frame>,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    ended: bool,
}

impl BackStream {
    pub(super) fn new(lane: Arc<InLane>, queue: mpsc::UnboundedReceiver<Back>, welcome: Frame) -> Self {
        let closed = Box::pin(lane.link.closed.clone().cancelled_owned());
        Self {
            lane,
            queue,
            taken: Vec::with_capacity(BATCH),
            transfers: VecDeque::new(),
            next_transfer: 0,
            first: Some(welcome),
            closed,
            ended: false,
        }
    }

    /// Fills `frame` from what was taken, up to its size.
    fn pack(&mut self, frame: &mut Frame) {
        let chunk = self.lane.link.shared.config.chunk;
        let (mut bytes, mut written) = (0, 0);
        while bytes < FRAME_BYTES {
            match self.taken.pop() {
                None => break,
                Some(Back::Nudge) => self.lane.nudged.store(false, Ordering::Release),
                Some(Back::Pong(ping)) => frame.pong = Some(ping),
                Some(Back::Reply(mut reply)) if reply.body.len() > chunk => {
                    self.next_transfer = self.next_transfer.wrapping_add(1);
                    let rest = std::mem::take(&mut reply.body);
                    reply.total = rest.len() as u64;
                    reply.transfer = self.next_transfer;
                    written += 64;
                    self.transfers.push_back(Transfer { number: reply.transfer, head: Some(reply), rest });
                }
                Some(Back::Reply(reply)) => {
                    bytes += reply.body.len() + 16;
                    written += backlog_cost(&reply);
                    frame.replies.push(reply);
                }
            }
        }
        if bytes < FRAME_BYTES {
            written += self.next_piece(frame, chunk);
        }
        self.lane.take_owed(&mut frame.credits);
        self.written(written);
    }

    /// Adds one piece of the transfer whose turn it is. Returns its bytes.
    fn next_piece(&mut self, frame: &mut Frame, chunk: usize) -> usize {
        let Some(mut transfer) = self.transfers.pop_front() else { return 0 };
        let piece = transfer.rest.split_to(chunk.min(transfer.rest.len()));
        let bytes = piece.len();
        match transfer.head.take() {
            Some(head) => frame.replies.push(Reply { body: piece, ..head }),
            None => frame.chunks.push(Chunk { transfer: transfer.number, data: piece }),
        }
        if !transfer.rest.is_empty() {
            self.transfers.push_back(transfer);
        }
        bytes
    }

    fn written(&self, bytes: usize) {
        let link = &self.lane.link;
        let before = link.backlog.fetch_sub(bytes, Ordering::AcqRel);
        if before > BACKLOG_HIGH / 2 && before - bytes <= BACKLOG_HIGH / 2 {
            link.drained.notify_waiters();
        }
    }
}

impl Stream for BackStream {
    type Item = Result<Frame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if let Some(welcome) = this.first.take() {
            return Poll::Ready(Some(Ok(welcome)));
        }
        if this.ended {
            return Poll::Ready(None);
        }
        if this.closed.as_mut().poll(cx).is_ready() {
            this.ended = true;
            let why = this.lane.link.why().to_string();
            return Poll::Ready(Some(Ok(Frame { goodbye: Some(Goodbye { why }), ..Frame::default() })));
        }
        loop {
            if this.taken.is_empty() {
                match this.queue.poll_recv_many(cx, &mut this.taken, BATCH) {
                    Poll::Ready(0) => return Poll::Ready(None),
                    Poll::Ready(_) => this.taken.reverse(),
                    Poll::Pending if this.transfers.is_empty() => return Poll::Pending,
                    Poll::Pending => {}
                }
            }
            let mut frame = Frame::default();
            this.pack(&mut frame);
            if !frame.is_empty() {
                return Poll::Ready(Some(Ok(frame)));
            }
        }
    }
}
