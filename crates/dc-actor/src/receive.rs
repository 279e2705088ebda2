//! What comes in over links: messages for actors of this node, and questions of other nodes.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use dc_remoting::{PeerIdentity, Receiver, ReplyTo, Service, Services, Undelivered};
use tracing::Instrument;

use crate::{
    authority::Wish,
    error::Error,
    events::DeadLetter,
    global, grain,
    link::{self, Incoming},
    lookup,
    notices::Notices,
    peers::{AtWork, LONGEST_QUESTION, PeerId},
    spawn,
    system::{Node, WeakSystem},
    watch,
    wire::{self, Place},
};

/// Registers everything that this node answers.
pub(crate) fn serve(node: &Arc<Node>, services: &Services) {
    services.know(node.kinds().names());
    let (notices, at_work) = (Arc::<Notices>::default(), AtWork::new(node.data_center().id().clone()));
    services.set_receiver(Arc::new(Messages { system: node.weak(), notices: notices.clone() }));
    for service in [
        wire::SPAWN,
        wire::LOOKUP,
        wire::LOCATE,
        wire::ACTIVATE,
        wire::PEEK,
        wire::GONE,
        wire::FIND,
        wire::OWNED,
        wire::OFFER,
        wire::FLOOR,
        wire::PLACE_IN,
    ] {
        let (notices, at_work) = (notices.clone(), at_work.clone());
        services.set_service(service, Arc::new(Questions { system: node.weak(), service, notices, at_work }));
    }
    watch::serve(node, services, &at_work);
}

/// Messages for actors and grains.
struct Messages {
    system: WeakSystem,
    notices: Arc<Notices>,
}

impl Receiver for Messages {
    fn message(&self, from: &Arc<PeerIdentity>, incoming: Incoming) {
        let Some(node) = self.system.node() else {
            if let Some(reply) = incoming.reply {
                reply.not_run("the system has ended");
            }
            return;
        };
        if let Err(error) = wire::check(&incoming.message) {
            return refuse(&node, incoming, error);
        }
        if incoming.message.kind.as_str() == wire::LANDED {
            return global::landed(&node, from, incoming);
        }
        if incoming.message.kind.as_str() == wire::PASSED_ALL {
            return grain::passed_all(&node, incoming);
        }
        let wish = Wish::Call { kind: incoming.message.kind.as_str(), message: incoming.message.message.as_str() };
        if let Err(error) = node.authorise(&from.dc, wish) {
            return refuse(&node, incoming, error);
        }
        match global::deliver(&node, Some(from), incoming, false) {
            Ok(()) => {}
            // It is being handed over, or was.
            Err(incoming) if incoming.message.epoch != 0 => global::arrived_late(&node, incoming),
            // A grain that went to rest: its message is passed on, or its asker looks again.
            Err(incoming) if !incoming.message.key.is_empty() => grain::redirect(&node, incoming),
            Err(incoming) => self.not_here(&node, from, incoming),
        }
    }

    fn undelivered(&self, lost: Undelivered) {
        let Some(node) = self.system.node() else { return };
        let (target, kind) = (format!("{} #{}", lost.message.kind, lost.message.to), lost.message.kind.to_string());
        let error = Error::Unreachable { to: target.clone(), reason: lost.why.to_string() };
        let message = lost.message.message.to_string();
        node.bus().dead_letter(DeadLetter { target, kind, message, error });
    }
}

impl Messages {
    /// Refuses a message for an actor that is not here (any more).
    fn not_here(&self, node: &Arc<Node>, from: &Arc<PeerIdentity>, incoming: Incoming) {
        let actor = format!("{} #{} on {}", incoming.message.kind, incoming.message.to, node.label());
        let error = Error::not_found(actor.clone());
        match incoming.reply {
            Some(reply) => link::reply_error(reply, &error),
            None => {
                let (kind, message) = (incoming.message.kind.to_string(), incoming.message.message.to_string());
                node.bus().dead_letter(DeadLetter { target: actor, kind, message, error });
                // A tell has no answer to say so: the sender's node is told apart from it, so that it looks again.
                self.notices.tell(node, PeerId::of(from), incoming.message.to);
            }
        }
    }
}

/// Refuses a message, unread: to its asker, or as a dead letter.
pub(crate) fn refuse(node: &Arc<Node>, incoming: Incoming, error: Error) {
    let message = &incoming.message;
    let target = format!("{} #{} on {}", message.kind, message.to, node.label());
    match incoming.reply {
        Some(reply) => link::reply_error(reply, &error),
        None => {
            let (kind, message) = (message.kind.to_string(), message.message.to_string());
            node.bus().dead_letter(DeadLetter { target, kind, message, error });
        }
    }
}

/// Questions about actors.
struct Questions {
    system: WeakSystem,
    service: dc_remoting::ServiceId,
    notices: Arc<Notices>,
    at_work: Arc<AtWork>,
}

impl Service for Questions {
    fn call(&self, from: &Arc<PeerIdentity>, body: Bytes, left: Duration, reply: ReplyTo) {
        let Some(node) = self.system.node() else { return reply.not_run("the system has ended") };
        let seat = match self.at_work.begin(PeerId::of(from), self.service, body.len()) {
            Ok(seat) => seat,
            Err(error) => return link::reply_error(reply, &error),
        };
        if self.service == wire::GONE {
            let (status, body) = wire::write_answer(&self.gone(&node, from, body));
            return reply.send(status, body);
        }
        let (service, from, left) = (self.service, from.clone(), left.min(LONGEST_QUESTION));
        let span = tracing::debug_span!("question", service = service.0, from = %from.node.short());
        let work = async move {
            let answer = answer(&node, service, &from, body, left).await;
            if let Err(error) = &answer {
                tracing::debug!(%error, "a question was refused");
            }
            let (status, body) = wire::write_answer(&answer);
            reply.send(status, body);
            drop(seat);
        };
        tokio::spawn(work.instrument(span));
    }
}

impl Questions {
    fn gone(&self, node: &Arc<Node>, from: &PeerIdentity, body: Bytes) -> Result<Place, Error> {
        let gone: wire::GoneBody = wire::read("a notice", body)?;
        self.notices.hear(node, PeerId::of(from), gone.actor);
        Ok(Place::none())
    }
}

async fn answer(
    node: &Arc<Node>,
    service: dc_remoting::ServiceId,
    from: &PeerIdentity,
    body: Bytes,
    left: Duration,
) -> Result<Place, Error> {
    match service {
        wire::SPAWN => {
            let body: wire::SpawnBody = wire::read("a spawn", body)?;
            node.authorise(&from.dc, Wish::Spawn(&body.kind))?;
            spawn::asked(node, body, left).await
        }
        wire::LOOKUP => {
            node.authorise(&from.dc, Wish::LookUp)?;
            lookup::asked(node, wire::read("a lookup", body)?, left).await
        }
        wire::FIND => {
            node.authorise(&from.dc, Wish::LookUp)?;
            global::asked_to_find(node, wire::read("a question for a global name", body)?, left).await
        }
        wire::FLOOR => global::asked_for_floor(node),
        wire::OFFER => {
            let body: wire::OfferBody = wire::read("an offer", body)?;
            global::asked_to_take(node, from, &body)
        }
        wire::LOCATE | wire::ACTIVATE | wire::OWNED => {
            let body: wire::GrainBody = wire::read("a question for a grain", body)?;
            node.authorise(&from.dc, Wish::Find(&body.kind))?;
            match service {
                wire::OWNED => global::asked_to_activate(node, body, left).await,
                wire::LOCATE => grain::asked_to_locate(node, body, left).await,
                _ => grain::asked_to_activate(node, &from.dc, body, left).await,
            }
        }
        wire::PLACE_IN => {
            let body: wire::PlaceInBody = wire::read("a placing of a grain", body)?;
            node.authorise(&from.dc, Wish::TakeOver(&body.kind))?;
            global::asked_to_place(node, body, left).await
        }
        // Everybody may ask whether a grain is active: without the answer, one might be active twice (G2).
        wire::PEEK => grain::asked_to_peek(node, wire::read("a question for a grain", body)?, left).await,
        _ => Err(Error::Other { text: format!("no question {} here", service.0), not_run: true }),
    }
}
