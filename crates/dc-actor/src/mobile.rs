//! Targets that may move: grains, and actors of global names. A message goes to where its target is known to be, and
//! looks again if it certainly did not run there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use dc_ownership::order::Thing;

use crate::{
    activation::Activation,
    error::{AskError, Error, NewOwner},
    former::{Former, Told, Unanswered},
    global::{self, Located},
    grain::{self, NotFound},
    host::Key,
    message::{Handles, RemoteActor, RemoteMessage},
    reference::Route,
    send::{Payload, ask_by, tell_by},
    system::Node,
};

/// A target that may move, as one reference and its clones see it.
pub(crate) struct Mobile<A: RemoteActor> {
    node: Arc<Node>,
    what: What,
    /// What is owned, of a global one.
    thing: Option<Thing>,
    route: ArcSwapOption<Known<A>>,
    /// One at a time looks for it; the others wait, in order.
    looking: tokio::sync::Mutex<()>,
    /// Where it was before: what was told there may be on its way.
    former: Former<A>,
}

/// Whom it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Grain(Arc<str>),
    Name(Arc<str>),
}

struct Known<A: RemoteActor> {
    located: Located,
    route: Arc<Route<A>>,
    /// As of which generation of what this node knows of owners no newer one was known; 0: not looked yet.
    as_of: AtomicU64,
    told: Told,
}

impl<A: RemoteActor> Mobile<A> {
    pub(crate) fn new(node: Arc<Node>, what: What) -> Self {
        let thing = match &what {
            What::Grain(id) => node.try_global().and_then(|global| global.grain(A::KIND, id)),
            What::Name(name) => Some(Thing::Name(name.to_string())),
        };
        let looking = tokio::sync::Mutex::new(());
        Self { node, what, thing, route: ArcSwapOption::empty(), looking, former: Former::new() }
    }

    /// One whose place is known already.
    pub(crate) fn known_at(node: Arc<Node>, what: What, located: Located) -> Self {
        let mobile = Self::new(node, what);
        mobile.settle(located);
        mobile
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }

    fn settle(&self, located: Located) -> Arc<Known<A>> {
        let key = match &self.what {
            What::Grain(id) => Key::Grain(id.clone()),
            What::Name(name) => Key::Global(name.clone()),
        };
        let route = Arc::new(Route::to(&self.node, &located, &key));
        let told = Told::new(self.node.clock().now());
        let known = Arc::new(Known { located, route, as_of: AtomicU64::new(0), told });
        self.route.store(Some(known.clone()));
        known
    }

    fn label(&self) -> String {
        match &self.what {
            What::Grain(id) => grain::identity(A::KIND, id),
            What::Name(name) => format!("{} {name:?} (global)", A::KIND),
        }
    }

    async fn known(&self, until: Instant, told: Option<&NewOwner>) -> Result<Arc<Known<A>>, NotFound> {
        if let Some(known) = self.route.load_full() {
            if !self.is_over(&known) {
                return Ok(known);
            }
            // A tell would be passed on there for ever, and never say so.
            self.leave(&known, self.is_handed_over(&known));
        }
        let left = until.saturating_duration_since(self.node.clock().now());
        match tokio::time::timeout(left, self.look(until, told)).await {
            Ok(found) => found,
            Err(_) => {
                let to = format!("the place of {}", self.label());
                Err(Error::Timeout { to, after: left, not_run: true }.into())
            }
        }
    }

    /// Where it is, looked for again as often as `tries` allow.
    async fn found(&self, tries: &mut Tries<'_>) -> Result<Arc<Known<A>>, Error> {
        loop {
            let lost = match self.known(tries.until, tries.told.as_ref()).await {
                Ok(known) => return Ok(known),
                Err(lost) => lost,
            };
            if tries.look_again(&lost, 0).await.is_err() {
                return Err(lost.error);
            }
        }
    }

    /// Looks for it, one message at a time. Cancel-safe: what it began goes on by itself.
    async fn look(&self, until: Instant, told: Option<&NewOwner>) -> Result<Arc<Known<A>>, NotFound> {
        let _turn = self.looking.lock().await;
        if let Some(known) = self.route.load_full() {
            return Ok(known);
        }
        let located = match &self.what {
            What::Grain(id) => grain::locate(&self.node, A::KIND, id, until, told).await?,
            What::Name(name) => {
                let (located, kind) = global::locate_name(&self.node, name, until, told).await?;
                if kind != A::KIND {
                    let (name, expected) = (name.to_string(), A::KIND.to_owned());
                    return Err(NotFound { error: Error::WrongKind { name, expected, found: kind }, lasting: true });
                }
                located
            }
        };
        Ok(self.settle(located))
    }

    /// Whether this node knows of a newer owner than the one that was found. One comparison, as long as nothing changes.
    fn is_over(&self, known: &Known<A>) -> bool {
        let (Some(thing), epoch) = (&self.thing, known.located.epoch) else { return false };
        let Some(global) = self.node.try_global().filter(|_| epoch != 0) else { return false };
        // Before the look: what changes after this is looked at again. Never 0, which says that nobody has looked.
        let generation = global.ownership.generation().wrapping_add(1).max(1);
        if known.as_of.load(Ordering::Relaxed) == generation {
            return false;
        }
        let newer = self.node.knows_newer(thing, epoch);
        if !newer {
            known.as_of.store(generation, Ordering::Relaxed);
        }
        newer
    }

    fn forget(&self, known: &Arc<Known<A>>) {
        match &self.what {
            What::Grain(id) => self.node.grains().forget(A::KIND, id, &known.located.at),
            What::Name(name) => self.node.forget_global(name, &known.located.at),
        }
        self.route.rcu(|now| match now {
            Some(now) if Arc::ptr_eq(now, known) => None,
            other => other.clone(),
        });
    }

    pub(crate) async fn tell_to<M>(
        &self,
        message: M,
        timeout: Option<Duration>,
        sender: Option<&Activation>,
    ) -> Result<(), Error>
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        self.node.lists::<A, M>()?;
        let mut payload = Payload::again(message);
        let mut tries = Tries::new(&self.node, self.thing.as_ref(), timeout);
        loop {
            let known = self.found(&mut tries).await?;
            self.after_what_was_told(&tries, sender).await;
            let left = tries.left()?;
            let Err(error) = tell_by(&known.route, &mut payload, Some(left), sender).await else {
                self.note_told(&known);
                return Ok(());
            };
            self.not_there(&known, &error);
            if tries.again(&error, known.located.epoch).await.is_err() {
                return Err(error);
            }
        }
    }

    pub(crate) async fn ask_of<M>(
        &self,
        message: M,
        timeout: Option<Duration>,
        sender: Option<&Activation>,
    ) -> Result<<A as Handles<M>>::Ok, AskError<<A as Handles<M>>::Err>>
    where
        A: Handles<M>,
        M: RemoteMessage,
    {
        self.node.lists::<A, M>()?;
        let mut payload = Payload::again(message);
        let mut tries = Tries::new(&self.node, self.thing.as_ref(), timeout);
        loop {
            let known = self.found(&mut tries).await.map_err(AskError::Failed)?;
            self.after_what_was_told(&tries, sender).await;
            let left = tries.left().map_err(AskError::Failed)?;
            let mut unanswered = self.unanswered(&known);
            let answer = ask_by(&known.route, &mut payload, Some(left), sender).await;
            if !matches!(&answer, Err(AskError::Failed(error)) if !error.certainly_not_run()) {
                unanswered.at = None;
            }
            drop(unanswered);
            let error = match answer {
                Err(AskError::Failed(error)) => error,
                answer => {
                    if payload.was_forwarded() {
                        self.forget(&known);
                    } else {
                        self.check_answer(&known).map_err(AskError::Failed)?;
                    }
                    return answer;
                }
            };
            self.not_there(&known, &error);
            if payload.is_spent() || tries.again(&error, known.located.epoch).await.is_err() {
                return Err(AskError::Failed(error));
            }
        }
    }

    /// An answer of a former owner is not accepted by who knows of a newer one (G2), unless that one handed over in good
    /// order: then it was given before, and was only slower than the news.
    fn check_answer(&self, known: &Arc<Known<A>>) -> Result<(), Error> {
        let Some(thing) = self.thing.as_ref().filter(|_| self.is_over(known)) else { return Ok(()) };
        let epoch = known.located.epoch;
        self.forget(known);
        if self.node.handed_over(thing, epoch) {
            return Ok(());
        }
        let newer = self.node.newer_owner(thing, epoch);
        Err(Error::NotOwner { actor: self.label(), epoch, newer, not_run: false })
    }

    /// Forgets where it was, if it is not there.
    fn not_there(&self, known: &Arc<Known<A>>, error: &Error) {
        tracing::debug!(target = %self.label(), at = known.located.at.actor, %error, "a message did not get through");
        match error {
            // Whoever says so is alive, and passes on what was told.
            Error::NotOwner { not_run: true, .. }
            | Error::StaleEpoch { .. }
            | Error::ActorNotFound { .. }
            | Error::ActorStopped { .. }
            | Error::ShuttingDown { .. } => self.leave(known, true),
            error if moved(error) => self.forget(known),
            _ => {}
        }
    }

    /// As [`forget`](Self::forget), where it is elsewhere now: what was told there is being passed on, for certain or
    /// perhaps.
    fn leave(&self, known: &Arc<Known<A>>, passes_on: bool) {
        self.former.leave(&known.route, &known.told, passes_on, self.node.clock().now());
        self.forget(known);
    }

    fn is_handed_over(&self, known: &Known<A>) -> bool {
        self.thing.as_ref().is_some_and(|thing| self.node.handed_over(thing, known.located.epoch))
    }

    /// Something was told there.
    fn note_told(&self, known: &Arc<Known<A>>) {
        if !matches!(*known.route, Route::There(_)) {
            return;
        }
        known.told.note(self.node.clock().now());
        // Another message has left it meanwhile: that one's sign may be ahead of this.
        if !self.route.load().as_ref().is_some_and(|now| Arc::ptr_eq(now, known)) {
            self.leave(known, true);
        }
    }

    fn unanswered<'a>(&self, known: &'a Known<A>) -> Unanswered<'a> {
        let over_a_link = matches!(*known.route, Route::There(_));
        Unanswered { told: &known.told, at: over_a_link.then(|| self.node.clock().now()) }
    }

    /// Waits until what this sender told a former owner is passed on (R1), as long as the message may wait.
    async fn after_what_was_told(&self, tries: &Tries<'_>, sender: Option<&Activation>) {
        if self.former.is_empty() {
            return;
        }
        let left = tries.until.saturating_duration_since(self.node.clock().now());
        // An Err is a message whose time is over.
        let _ = tokio::time::timeout(left, self.former.passed_all(sender, self.node.clock())).await;
    }
}

/// Errors that say: certainly not run, and the target may be (or become) active elsewhere. What was queued behind a
/// failure is among them: for a grain, the next activation takes it.
fn moved(error: &Error) -> bool {
    matches!(
        error,
        Error::ActorNotFound { .. }
            | Error::ActorStopped { .. }
            | Error::Unreachable { .. }
            | Error::ShuttingDown { .. }
            | Error::NotOwner { not_run: true, .. }
            | Error::StaleEpoch { .. }
    )
}

/// Finds the actor of a global name for whoever looks it up. A name that is handed over meanwhile is looked for again,
/// where it goes: it exists all the time. An owner who cannot be reached is not waited for.
pub(crate) async fn find_name(node: &Arc<Node>, name: &str, after: Duration) -> Result<(Located, String), NotFound> {
    let thing = Thing::Name(name.to_owned());
    let mut tries = Tries::new(node, Some(&thing), Some(after));
    loop {
        let left = tries.left().map_err(NotFound::from)?;
        let found = global::locate_name(node, name, tries.until, tries.told.as_ref());
        let lost = match tokio::time::timeout(left, found).await {
            Ok(Ok(found)) => return Ok(found),
            Ok(Err(lost)) => lost,
            Err(_) => {
                let to = format!("the place of the global name {name:?}");
                return Err(Error::Timeout { to, after, not_run: true }.into());
            }
        };
        let elsewhere = matches!(
            lost.error,
            Error::NotOwner { .. }
                | Error::ActorStopped { .. }
                | Error::ActorNotFound { .. }
                | Error::StaleEpoch { .. }
        );
        if !elsewhere || tries.look_again(&lost, 0).await.is_err() {
            return Err(lost);
        }
    }
}

/// How often, and how long, a message looks for its target.
struct Tries<'a> {
    node: &'a Arc<Node>,
    thing: Option<&'a Thing>,
    after: Duration,
    until: Instant,
    made: u32,
    /// The newest owner that somebody named.
    told: Option<NewOwner>,
}

impl<'a> Tries<'a> {
    /// With the waits between them, about a second and a half: enough for a dead node to be noticed in its datacenter.
    /// What is global is looked for as long as the message may wait: its owner may be lost, and its successor come.
    const MOST: u32 = 8;

    fn new(node: &'a Arc<Node>, thing: Option<&'a Thing>, timeout: Option<Duration>) -> Self {
        let after = timeout.unwrap_or(node.options().ask_timeout);
        Self { node, thing, after, until: node.clock().now() + after, made: 0, told: None }
    }

    fn left(&self) -> Result<Duration, Error> {
        let left = self.until.saturating_duration_since(self.node.clock().now());
        if left.is_zero() {
            return Err(Error::Timeout { to: "its target".into(), after: self.after, not_run: true });
        }
        Ok(left)
    }

    /// As [`again`](Self::again), for a target that was not found.
    async fn look_again(&mut self, lost: &NotFound, epoch: u64) -> Result<(), ()> {
        if lost.lasting { Err(()) } else { self.again(&lost.error, epoch).await }
    }

    /// Waits a little and allows another try, if the last one certainly did not run (R3) and there is time.
    async fn again(&mut self, error: &Error, epoch: u64) -> Result<(), ()> {
        self.made += 1;
        let left = self.until.saturating_duration_since(self.node.clock().now());
        let waits_for_owner = self.thing.is_some() && matches!(error, Error::OwnershipUnavailable { .. });
        if !(moved(error) || waits_for_owner) || !error.certainly_not_run() || left.is_zero() {
            return Err(());
        }
        if self.made >= Self::MOST && self.thing.is_none() {
            return Err(());
        }
        if let Error::NotOwner { newer: Some(newer), .. } = error
            && self.told.as_ref().is_none_or(|told| told.epoch < newer.epoch)
        {
            self.told = Some(newer.clone());
            if self.made < Self::MOST {
                return Ok(());
            }
        }
        // The first time at once: going to rest is the common case.
        if self.made > 1 {
            let wait = Duration::from_millis(12 << self.made.min(6));
            let jitter = self.node.draw() % 50;
            let wait = (wait + Duration::from_millis(jitter)).min(left);
            match self.thing {
                // Earlier, where a newer owner turns up.
                Some(thing) if epoch != 0 && !self.node.knows_newer(thing, epoch) => {
                    self.node.await_newer(thing, epoch, wait).await;
                }
                Some(_) | None => tokio::time::sleep(wait).await,
            }
        }
        Ok(())
    }
}
