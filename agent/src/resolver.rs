//! Names of addresses and addresses of names, looked up off the engine's threads.
//!
//! A rule asks the cache, which answers at once; what the cache does not know is looked up in the background, and known
//! when somebody asks again. A name of an address counts only if it resolves back to that address. Nothing is ever
//! looked up that no rule asked for.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{ResolverBuilder, TokioResolver};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

/// How long one try of a look-up may take, the way back included.
const BUDGET: Duration = Duration::from_millis(250);
/// How often a look-up is tried: the second finds what the first made a server fetch.
const TRIES: usize = 2;
/// How many questions may wait for their look-up.
const QUEUE: usize = 1024;
/// How many look-ups run at once.
const AT_ONCE: usize = 32;
/// How many answers are remembered.
const CAPACITY: usize = 16_384;
/// How long an answer is remembered.
const KEPT: Duration = Duration::from_hours(1);
/// How long it is remembered that there is none.
const KEPT_EMPTY: Duration = Duration::from_mins(5);
/// Most names of an address that are asked back.
const MAX_NAMES: usize = 3;
/// Most addresses of a name that are remembered.
const MAX_ADDRESSES: usize = 64;
/// Longest name in bytes.
const MAX_NAME: usize = 253;

/// What a look-up gives; nothing when there is nothing, or nobody who answers.
pub type Found<'a, T> = Pin<Box<dyn Future<Output = Vec<T>> + Send + 'a>>;

/// Who is asked.
pub trait Lookup: fmt::Debug + Send + Sync + 'static {
    /// The names under which `ip` is entered, confirmed or not.
    fn names(&self, ip: IpAddr) -> Found<'_, String>;

    /// The addresses of `name`, which has no final dot.
    fn addresses<'a>(&'a self, name: &'a str) -> Found<'a, IpAddr>;
}

/// What a rule wants to know.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Question {
    /// The confirmed names of an address.
    Names(IpAddr),
    /// The addresses of a name.
    Addresses(String),
}

/// The cache, and the way to those who fill it. All clones are one.
#[derive(Clone, Debug)]
pub struct Resolver(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    cache: Mutex<Cache>,
    asked: Sender<Question>,
    dropped: AtomicU64,
}

impl Resolver {
    /// A resolver that asks the servers that this host is configured to ask. To be called within a runtime. Fails when the
    /// host's configuration cannot be read.
    pub fn system() -> Result<Self, NetError> {
        Ok(Self::new(Arc::new(Servers::new(TokioResolver::builder_tokio()?)?)))
    }

    /// A resolver that asks `lookup`. To be called within a runtime.
    pub fn new(lookup: Arc<dyn Lookup>) -> Self {
        let (asked, questions) = channel(QUEUE);
        let shared = Arc::new(Shared { cache: Mutex::default(), asked, dropped: AtomicU64::new(0) });
        tokio::spawn(serve(lookup, Arc::downgrade(&shared), questions));
        Self(shared)
    }

    /// The answer, if it is known; else its look-up begins. Never waits. Names are in lower case without a final dot.
    pub fn ask(&self, question: &Question) -> Option<Arc<[String]>> {
        let question = match question {
            Question::Names(ip) => Question::Names(ip.to_canonical()),
            Question::Addresses(name) => match name.parse::<IpAddr>() {
                Ok(ip) => return Some([ip.to_string()].into()),
                Err(_) => match proper(name) {
                    Some(name) => Question::Addresses(name),
                    None => return Some([].into()),
                },
            },
        };
        let mut cache = self.0.cache();
        if let Some(answer) = cache.get(&question, Instant::now()) {
            return Some(answer);
        }
        if cache.asked.contains(&question) {
            return None;
        }
        if self.0.asked.try_send(question.clone()).is_ok() {
            cache.asked.insert(question);
        } else {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        None
    }

    /// How many questions were not looked up, because too many waited.
    pub fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, Cache> {
        // The cache is whole between any two of its statements that can panic.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers, the oldest of which give way.
#[derive(Debug, Default)]
struct Cache {
    answers: HashMap<Question, (Instant, Arc<[String]>)>,
    /// Each answer's end, oldest answer first; of an answer that was replaced, also that of its predecessor.
    order: VecDeque<(Instant, Question)>,
    /// What is being looked up.
    asked: HashSet<Question>,
}

impl Cache {
    fn get(&self, question: &Question, now: Instant) -> Option<Arc<[String]>> {
        self.answers.get(question).filter(|(end, _)| *end > now).map(|(_, answer)| Arc::clone(answer))
    }

    fn put(&mut self, question: Question, answer: Vec<String>, now: Instant) {
        let end = now + if answer.is_empty() { KEPT_EMPTY } else { KEPT };
        self.order.push_back((end, question.clone()));
        self.answers.insert(question, (end, answer.into()));
        while self.order.len() > CAPACITY
            && let Some((end, oldest)) = self.order.pop_front()
        {
            if self.answers.get(&oldest).is_some_and(|(current, _)| *current == end) {
                self.answers.remove(&oldest);
            }
        }
    }
}

/// `name` as it is asked for and compared, if it can be one at all.
fn proper(name: &str) -> Option<String> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let whole = name.split('.').all(|label| (1..=63).contains(&label.len()));
    (name.len() <= MAX_NAME && whole && name.bytes().all(fits)).then(|| name.to_ascii_lowercase())
}

/// Looks up what is asked, until nobody can ask any more.
async fn serve(lookup: Arc<dyn Lookup>, shared: Weak<Shared>, mut questions: Receiver<Question>) {
    let room = Arc::new(Semaphore::new(AT_ONCE));
    while let Some(question) = questions.recv().await {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        let (lookup, shared) = (Arc::clone(&lookup), Weak::clone(&shared));
        tokio::spawn(async move {
            let learned = find(lookup.as_ref(), &question).await;
            drop(permit);
            let Some(shared) = shared.upgrade() else { return };
            let mut cache = shared.cache();
            let now = Instant::now();
            for (question, answer) in learned {
                cache.put(question, answer, now);
            }
            cache.asked.remove(&question);
        });
    }
}

/// The answer, and what was learned on the way to it. No answer in time is none.
async fn find(lookup: &dyn Lookup, question: &Question) -> Vec<(Question, Vec<String>)> {
    for _ in 0..TRIES {
        if let Ok(learned) = timeout(BUDGET, look(lookup, question)).await {
            return learned;
        }
    }
    vec![(question.clone(), Vec::new())]
}

async fn look(lookup: &dyn Lookup, question: &Question) -> Vec<(Question, Vec<String>)> {
    let texts = |found: &[IpAddr]| found.iter().take(MAX_ADDRESSES).map(ToString::to_string).collect();
    match question {
        Question::Addresses(name) => vec![(question.clone(), texts(&lookup.addresses(name).await))],
        Question::Names(ip) => {
            let mut learned = Vec::new();
            let mut confirmed = Vec::new();
            let names = lookup.names(*ip).await;
            for name in names.iter().take(MAX_NAMES).filter_map(|name| proper(name)) {
                let mut found = lookup.addresses(&name).await;
                let Some(at) = found.iter().position(|found| found.to_canonical() == *ip) else { continue };
                // However many there are, the one that matters is among those that are kept.
                found.swap(0, at);
                learned.push((Question::Addresses(name.clone()), texts(&found)));
                confirmed.push(name);
            }
            learned.push((question.clone(), confirmed));
            learned
        }
    }
}

/// The servers of a DNS configuration.
struct Servers(TokioResolver);

impl Servers {
    fn new(mut builder: ResolverBuilder<TokioRuntimeProvider>) -> Result<Self, NetError> {
        let options = builder.options_mut();
        options.timeout = BUDGET;
        options.attempts = 1;
        // The answers are kept here already.
        options.cache_size = 0;
        Ok(Self(builder.build()?))
    }
}

impl fmt::Debug for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Servers").finish_non_exhaustive()
    }
}

impl Lookup for Servers {
    fn names(&self, ip: IpAddr) -> Found<'_, String> {
        Box::pin(async move {
            let Ok(found) = self.0.reverse_lookup(ip).await else { return Vec::new() };
            let name = |data: &RData| match data {
                RData::PTR(name) => Some(name.to_string()),
                _ => None,
            };
            found.answers().iter().filter_map(|record| name(&record.data)).collect()
        })
    }

    fn addresses<'a>(&'a self, name: &'a str) -> Found<'a, IpAddr> {
        Box::pin(async move {
            // With its final dot no search domain of this host is tried.
            let Ok(found) = self.0.lookup_ip(format!("{name}.")).await else { return Vec::new() };
            found.iter().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use hickory_resolver::config::{NameServerConfig, ResolverConfig};
    use tokio::net::UdpSocket;

    use super::*;

    /// Who knows a little; a name that begins with `slow` is never answered.
    #[derive(Debug)]
    struct Book {
        names: Vec<(&'static str, Vec<&'static str>)>,
        addresses: Vec<(&'static str, Vec<&'static str>)>,
        asked: AtomicU64,
    }

    fn book() -> Book {
        let many = vec!["a.example", "b.example", "c.example", "true.example"];
        Book {
            names: vec![
                ("192.0.2.1", vec!["Crawl.Example."]),
                ("192.0.2.2", vec!["crawl.example."]),
                ("192.0.2.3", vec!["nowhere.example.", "true.example."]),
                ("192.0.2.4", vec!["bad name.example.", "x..example.", "", "true.example"]),
                ("192.0.2.5", many),
                ("192.0.2.6", vec!["slow.example."]),
                ("2001:db8::1", vec!["six.example."]),
            ],
            addresses: vec![
                ("crawl.example", vec!["198.51.100.1", "192.0.2.1"]),
                ("true.example", vec!["192.0.2.3", "192.0.2.4", "192.0.2.5"]),
                ("six.example", vec!["2001:db8::1"]),
            ],
            asked: AtomicU64::new(0),
        }
    }

    impl Lookup for Book {
        fn names(&self, ip: IpAddr) -> Found<'_, String> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let found = self.names.iter().filter(|(of, _)| of.parse() == Ok(ip)).flat_map(|(_, names)| names);
            let found = found.map(|&name| name.to_owned()).collect();
            Box::pin(async move { found })
        }

        fn addresses<'a>(&'a self, name: &'a str) -> Found<'a, IpAddr> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let found = self.addresses.iter().filter(move |(of, _)| *of == name).flat_map(|(_, found)| found);
            let found: Vec<IpAddr> = found.map(|text| text.parse().expect("an address")).collect();
            Box::pin(async move {
                if name.starts_with("slow") {
                    std::future::pending::<()>().await;
                }
                found
            })
        }
    }

    fn names(ip: &str) -> Question {
        Question::Names(ip.parse().expect("an address"))
    }

    fn addresses(name: &str) -> Question {
        Question::Addresses(name.to_owned())
    }

    async fn answer(resolver: &Resolver, question: &Question) -> Vec<String> {
        loop {
            if let Some(answer) = resolver.ask(question) {
                return answer.to_vec();
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// The clock is made: it jumps to the next timer whenever nothing else is left to do.
    #[tokio::test(start_paused = true)]
    async fn a_name_counts_only_if_it_leads_back() {
        // (what, question, answer)
        let cases: &[(&str, Question, &[&str])] = &[
            ("a name that leads back, as rules compare it", names("192.0.2.1"), &["crawl.example"]),
            ("an address as part of the other family", names("::ffff:192.0.2.1"), &["crawl.example"]),
            ("the name of somebody else", names("192.0.2.2"), &[]),
            ("the first leads nowhere, the second back", names("192.0.2.3"), &["true.example"]),
            ("texts that are no names take their places all the same", names("192.0.2.4"), &[]),
            ("only three names are asked back", names("192.0.2.5"), &[]),
            ("nobody answers in time", names("192.0.2.6"), &[]),
            ("nobody knows it", names("203.0.113.9"), &[]),
            ("the other family", names("2001:db8::1"), &["six.example"]),
            (
                "the addresses of a name, with its final dot",
                addresses("Crawl.example."),
                &["192.0.2.1", "198.51.100.1"],
            ),
            ("a name that nobody has", addresses("none.example"), &[]),
        ];
        let resolver = Resolver::new(Arc::new(book()));
        for (what, question, expected) in cases {
            let mut found = answer(&resolver, question).await;
            found.sort();
            assert_eq!(found, *expected, "{what}");
        }
        assert_eq!(resolver.dropped(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_needs_no_look_up_is_answered_at_once() {
        let book = Arc::new(book());
        let resolver = Resolver::new(Arc::clone(&book) as Arc<dyn Lookup>);
        let long = format!("{}.example", "a".repeat(64));
        // (name, answer)
        let cases: &[(&str, &[&str])] = &[
            ("192.0.2.1", &["192.0.2.1"]),
            ("2001:DB8::1", &["2001:db8::1"]),
            ("", &[]),
            (".", &[]),
            ("a b.example", &[]),
            ("a\n.example", &[]),
            (&long, &[]),
        ];
        for (name, expected) in cases {
            let found = resolver.ask(&addresses(name)).map(|found| found.to_vec());
            assert_eq!(found.as_deref(), Some(&expected.iter().map(ToString::to_string).collect::<Vec<_>>()[..]));
        }
        assert_eq!(book.asked.load(Ordering::Relaxed), 0);

        // Once for the name, once for the way back, and whoever asks for the way back gets it from memory.
        answer(&resolver, &names("192.0.2.1")).await;
        answer(&resolver, &names("192.0.2.1")).await;
        assert!(resolver.ask(&addresses("crawl.example")).is_some());
        assert_eq!(book.asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_questions_are_dropped_and_counted() {
        let resolver = Resolver::new(Arc::new(book()));
        // Nothing is looked up in between: this task does not wait.
        for number in 0..QUEUE + 5 {
            assert_eq!(resolver.ask(&addresses(&format!("n{number}.example"))), None);
        }
        assert_eq!(resolver.ask(&addresses("n0.example")), None, "it waits already");
        assert_eq!(resolver.dropped(), 5);
        assert_eq!(answer(&resolver, &names("192.0.2.1")).await, ["crawl.example"], "there is room again");
    }

    /// A server that knows 192.0.2.1 and its name.
    async fn serve_dns(socket: UdpSocket) {
        let mut query = [0; 512];
        while let Ok((length, from)) = socket.recv_from(&mut query).await {
            let question = &query[12..length];
            let name = question.iter().position(|&byte| byte == 0).expect("a name ends");
            let data: &[u8] = match question[name + 2] {
                12 => b"\x05crawl\x07example\0",
                1 => &[192, 0, 2, 1],
                _ => &[],
            };
            let known: [&[u8]; 2] = [b"\x011\x012\x010\x03192\x07in-addr\x04arpa", b"\x05crawl\x07example"];
            let answers = u8::from(!data.is_empty() && known.contains(&&question[..name]));
            let mut reply = query[..2].to_vec();
            reply.extend([0x81, 0x80, 0, 1, 0, answers, 0, 0, 0, 0]);
            reply.extend(&question[..name + 5]);
            if answers > 0 {
                reply.extend([0xc0, 12, 0, question[name + 2], 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
                reply.extend(data);
            }
            socket.send_to(&reply, from).await.expect("somebody waits");
        }
    }

    #[tokio::test]
    async fn servers_are_asked() {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
        let mut server = NameServerConfig::udp([127, 0, 0, 1].into());
        server.connections[0].port = socket.local_addr().expect("it is bound").port();
        tokio::spawn(serve_dns(socket));
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![server]);
        let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        let servers = Servers::new(builder).expect("a right configuration");
        // A machine that does other things too may miss the budget once.
        let mut learned = Vec::new();
        for _ in 0..50 {
            learned = look(&servers, &names("192.0.2.1")).await;
            if learned.len() > 1 {
                break;
            }
        }
        let expected = [
            (addresses("crawl.example"), vec!["192.0.2.1".to_owned()]),
            (names("192.0.2.1"), vec!["crawl.example".to_owned()]),
        ];
        assert_eq!(learned, expected);
        assert_eq!(look(&servers, &names("192.0.2.2")).await, [(names("192.0.2.2"), Vec::new())]);
        assert_eq!(look(&servers, &addresses("none.example")).await, [(addresses("none.example"), Vec::new())]);
    }

    #[test]
    fn answers_end_and_the_oldest_give_way() {
        let start = Instant::now();
        let mut cache = Cache::default();
        cache.put(addresses("found"), vec!["192.0.2.1".into()], start);
        cache.put(addresses("none"), Vec::new(), start);
        // (question, seconds later, whether it is known)
        let cases = [("found", 3599, true), ("found", 3600, false), ("none", 299, true), ("none", 300, false)];
        for (name, seconds, known) in cases {
            let found = cache.get(&addresses(name), start + Duration::from_secs(seconds));
            assert_eq!(found.is_some(), known, "{name} after {seconds} s");
        }
        for number in 0..CAPACITY - 1 {
            cache.put(addresses(&number.to_string()), Vec::new(), start);
        }
        assert!(cache.get(&addresses("found"), start).is_none());
        assert!(cache.get(&addresses("none"), start).is_some());
        let later = start + Duration::from_secs(1);
        cache.put(addresses("none"), Vec::new(), later);
        cache.put(addresses("one more"), Vec::new(), later);
        assert!(cache.get(&addresses("none"), later).is_some(), "a renewed answer is young");
        assert!(cache.answers.len() <= CAPACITY && cache.order.len() <= CAPACITY);
    }
}
