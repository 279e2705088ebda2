//! What goes back over a lane: answers, credits, pongs.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use futures::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Status;

use super::{Answering, Back, InLane, PONG_COST, PairIn, backlog_cost};
use crate::wire::{ChunkRef, Frame, Goodbye, OutFrame, ReplyRef};

/// Entries taken from the queue at once.
const BATCH: usize = 64;

/// A frame is closed once it holds this many bytes.
const FRAME_BYTES: usize = 8 << 10;

/// Bodies up to this size are copied into their frame; larger ones follow it as they are.
const COPIED: usize = 4 << 10;

/// A large answer on its way, piece by piece.
struct Transfer {
    number: u32,
    answer: Answering,
    sent: usize,
}

/// The stream that tonic writes to the dialler.
pub(crate) struct BackStream {
    lane: Arc<InLane>,
    queue: mpsc::UnboundedReceiver<Back>,
    taken: Vec<Back>,
    /// The frame being filled.
    filling: BytesMut,
    ready: VecDeque<OutFrame>,
    /// An empty list, kept for its capacity.
    spare: Vec<Arc<PairIn>>,
    transfers: VecDeque<Transfer>,
    next_transfer: u32,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Once nothing is left here, it says goodbye.
    parting: bool,
    /// The last poll left the turn to others although something was there.
    stepped_aside: bool,
    ended: bool,
}

impl BackStream {
    pub(super) fn new(lane: Arc<InLane>, queue: mpsc::UnboundedReceiver<Back>, welcome: Frame) -> Self {
        let closed = Box::pin(lane.link.closed.clone().cancelled_owned());
        Self {
            lane,
            queue,
            taken: Vec::with_capacity(BATCH),
            filling: BytesMut::with_capacity(8 << 10),
            ready: VecDeque::from([welcome.into()]),
            spare: Vec::new(),
            transfers: VecDeque::new(),
            next_transfer: 0,
            closed,
            parting: false,
            stepped_aside: false,
            ended: false,
        }
    }

    /// Packs all that was taken, what is owed, and one piece of a large answer, into frames.
    fn pack(&mut self) {
        let mut written = 0;
        let mut taken = std::mem::take(&mut self.taken);
        for back in taken.drain(..) {
            match back {
                Back::Nudge => self.lane.nudged.store(false, Ordering::Release),
                Back::Pong(ping) => {
                    prost::encoding::message::encode(10, &ping, &mut self.filling);
                    written += PONG_COST;
                }
                Back::Goodbye => self.parting = true,
                Back::Reply(answer) => written += self.answer(answer),
            }
        }
        self.taken = taken;
        written += self.next_piece();
        self.lane.take_owed(&mut self.spare, |credit| credit.write(&mut self.filling));
        if !self.filling.is_empty() {
            self.cut(Bytes::new());
        }
        if written > 0 {
            self.lane.link.written(written);
        }
    }

    /// Closes the frame being filled.
    fn cut(&mut self, tail: Bytes) {
        let head = self.filling.split();
        self.ready.push_back(OutFrame { head, tail });
    }

    /// The last frame.
    fn goodbye(&mut self) -> OutFrame {
        self.ended = true;
        let why = self.lane.link.why().to_string();
        Frame { goodbye: Some(Goodbye { why }), ..Frame::default() }.into()
    }

    /// Packs an answer, or takes it up as a transfer. Returns what it counted for in the backlog and no longer does.
    fn answer(&mut self, answer: Answering) -> usize {
        let cost = backlog_cost(answer.body.len());
        if answer.body.len() > self.lane.link.shared.config.chunk {
            self.next_transfer = self.next_transfer.wrapping_add(1);
            self.transfers.push_back(Transfer { number: self.next_transfer, answer, sent: 0 });
            return backlog_cost(0);
        }
        let reply = ReplyRef { correlation: answer.correlation, ..ReplyRef::default() };
        let reply = ReplyRef { outcome: answer.outcome.into(), status: answer.status, body: &answer.body, ..reply };
        self.write(reply, &answer.body);
        cost
    }

    fn write(&mut self, reply: ReplyRef<'_>, body: &Bytes) {
        if body.len() > COPIED {
            reply.write(&mut self.filling, Some(body.len()));
            self.cut(body.clone());
            return;
        }
        reply.write(&mut self.filling, None);
        if self.filling.len() >= FRAME_BYTES {
            self.cut(Bytes::new());
        }
    }

    /// Writes one piece of the transfer whose turn it is. Returns its bytes.
    fn next_piece(&mut self) -> usize {
        let Some(mut transfer) = self.transfers.pop_front() else { return 0 };
        let Answering { correlation, outcome, status, ref body } = transfer.answer;
        let end = body.len().min(transfer.sent + self.lane.link.shared.config.chunk);
        let piece = body.slice(transfer.sent..end);
        if transfer.sent == 0 {
            let total = body.len() as u64;
            let (outcome, transfer) = (outcome.into(), transfer.number);
            self.write(ReplyRef { correlation, outcome, status, body: &piece, total, transfer }, &piece);
        } else {
            ChunkRef::write_head(transfer.number, piece.len(), &mut self.filling);
            self.cut(piece.clone());
        }
        transfer.sent = end;
        if end < transfer.answer.body.len() {
            self.transfers.push_back(transfer);
        }
        piece.len()
    }
}

impl Drop for BackStream {
    fn drop(&mut self) {
        self.lane.gone.cancel();
    }
}

impl Stream for BackStream {
    type Item = Result<OutFrame, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            if let Some(frame) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(frame)));
            }
            if this.ended {
                return Poll::Ready(None);
            }
            if this.closed.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Some(Ok(this.goodbye())));
            }
            match this.queue.poll_recv_many(cx, &mut this.taken, BATCH) {
                Poll::Ready(0) => return Poll::Ready(None),
                Poll::Pending if this.transfers.is_empty() && this.taken.is_empty() => {
                    if this.parting {
                        return Poll::Ready(Some(Ok(this.goodbye())));
                    }
                    return Poll::Pending;
                }
                Poll::Ready(_)
                    if !this.stepped_aside && this.taken.len() < BATCH && this.lane.link.expects_answers() =>
                {
                    // More answers are on their way: those who are ready to run go first, once, and add theirs.
                    this.stepped_aside = true;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(_) | Poll::Pending => {
                    this.stepped_aside = false;
                    this.pack();
                }
            }
        }
    }
}
