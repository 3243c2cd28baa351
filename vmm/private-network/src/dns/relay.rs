//! What is answered to a query.

use std::{
    net::Ipv4Addr,
    sync::{Mutex, PoisonError},
};

use hickory_proto::{op::ResponseCode, rr::RecordType};
use linux::netlink::Netlink;
use log::warn;
use vm_launcher::lines::Rate;

use super::{
    Transport, Upstreams,
    answer::Answer,
    openings::{LONGEST, Openings},
    query::Query,
};
use crate::{
    error::{Error, Result},
    links,
    policy::Policy,
    reserved,
};

/// Warnings that come at once after a pause.
const BURST: u32 = 10;

/// Answers a VM's queries as its policy says.
pub struct Relay {
    name: String,
    policy: Policy,
    upstreams: Upstreams,
    openings: Openings,
    /// A guest can cause as many warnings as it likes.
    warnings: Mutex<Rate>,
}

impl Relay {
    /// For the VM `name`.
    pub fn new(name: String, policy: Policy, upstreams: Upstreams) -> Relay {
        let openings = Openings::new(name.clone());
        Relay { name, policy, upstreams, openings, warnings: Mutex::new(Rate::new(BURST)) }
    }

    /// The answer to what a VM sent, if it gets one.
    pub(super) async fn answer(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let query = match Query::read(bytes) {
            Ok(query) => query,
            Err(answer) => return answer,
        };
        let (name, filters) = (query.name(), self.policy.filters_names());
        let ports = self.policy.ports(&name);
        if filters && ports.is_empty() {
            self.warn(&format!("refused to resolve {name}: the policy does not list it"));
            return query.empty(ResponseCode::Refused);
        }
        match query.kind() {
            // Without IPv6 nobody needs them.
            RecordType::AAAA => return query.empty(ResponseCode::NoError),
            // They name other hosts and other addresses of this one, which are not opened.
            RecordType::HTTPS | RecordType::SVCB if filters => return query.empty(ResponseCode::NoError),
            // More than one message.
            RecordType::AXFR | RecordType::IXFR => return query.empty(ResponseCode::Refused),
            _ => {}
        }
        let answer = match self.upstreams.ask(&query, transport).await {
            Ok(answer) => answer,
            Err(error) => {
                self.warn(&format!("cannot resolve {name}: {error}"));
                return query.empty(ResponseCode::ServFail);
            }
        };
        if !filters {
            return answer.for_vm(query.id(), None);
        }
        match self.open(&answer, &ports).await {
            Ok(None) => answer.for_vm(query.id(), Some(LONGEST)),
            Ok(Some(address)) => {
                self.warn(&format!(
                    "refused to resolve {name}: it leads to {address}, which is near the host; allow that as a network"
                ));
                query.empty(ResponseCode::Refused)
            }
            Err(error) => {
                self.warn(&format!("cannot open the firewall for {name}: {error}"));
                query.empty(ResponseCode::ServFail)
            }
        }
    }

    /// Opens the policy for the answer's addresses. Opens none and answers one that is near the host, if there is one.
    async fn open(&self, answer: &Answer, ports: &[Option<u16>]) -> Result<Option<Ipv4Addr>> {
        let addresses = answer.addresses().ok_or_else(|| Error::new("its answer has too many addresses"))?;
        if addresses.is_empty() {
            return Ok(None);
        }
        let listed = Netlink::open().and_then(|mut netlink| links::addresses(&mut netlink));
        let own = listed.map_err(Error::at("list the host's addresses"))?;
        let is_near = |address| reserved::contains(address) || own.iter().any(|(own, _)| *own == address);
        let mut wanted = Vec::new();
        for (address, time) in addresses {
            match is_near(address) {
                // The rule of a network says on which ports it is reached: a name must not lead to others.
                true if self.policy.lists(address) => {}
                true => return Ok(Some(address)),
                false => wanted.extend(ports.iter().map(|port| ((address, *port), time))),
            }
        }
        self.openings.open(wanted).await.map(|()| None)
    }

    fn warn(&self, text: &str) {
        let passed = self.warnings.lock().unwrap_or_else(PoisonError::into_inner).admit();
        let Some(summary) = passed else { return };
        if let Some(summary) = summary {
            warn!("network of {}: {summary}", self.name);
        }
        warn!("network of {}: {text}", self.name);
    }
}

#[cfg(test)]
pub mod tests {
    use std::{net::UdpSocket, sync::mpsc, thread};

    use hickory_proto::{op::Message, rr::Record};

    use super::*;
    use crate::{
        dns::{answer::tests as answers, openings::tests::recorded, query::tests::bytes, upstream},
        policy::tests::policy,
    };

    /// A relay to a resolver that answers every query with the records, and all that is around it.
    pub struct Fake {
        /// The relay.
        pub relay: Relay,
        scripts: mpsc::Receiver<String>,
        asked: mpsc::Receiver<Message>,
        _dir: tempfile::TempDir,
    }

    impl Fake {
        /// Starts the resolver, whose thread lasts as long as the test. A wrong answer comes before each right one.
        pub fn start(policy: Policy, records: Vec<Record>) -> Fake {
            let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = socket.local_addr().unwrap().port();
            let (sender, asked) = mpsc::channel();
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                    let answer = answers::answer(&buffer[..length], records.clone());
                    let mut wrong = answer.clone();
                    wrong[0] ^= 1;
                    let _ = socket.send_to(&wrong, from);
                    let _ = socket.send_to(&answer, from);
                    let _ = sender.send(Message::from_vec(&buffer[..length]).unwrap());
                }
            });
            let (upstreams, dir) = upstream::tests::local(port);
            let (openings, scripts) = recorded();
            let relay = Relay { openings, ..Relay::new("a".to_owned(), policy, upstreams) };
            Fake { relay, scripts, asked, _dir: dir }
        }

        async fn ask(&self, name: &str, kind: RecordType) -> Message {
            let answer = self.relay.answer(&bytes(name, kind), Transport::Udp).await.unwrap();
            Message::from_vec(&answer).unwrap()
        }

        async fn code(&self, name: &str, kind: RecordType) -> ResponseCode {
            self.ask(name, kind).await.metadata.response_code
        }
    }

    #[tokio::test]
    async fn a_listed_name_is_opened_before_it_is_answered() {
        let records =
            vec![answers::cname("a.example.", "b.test."), answers::a("b.test.", 300, [203, 0, 113, 1])];
        let fake = Fake::start(policy(&[], &["a.example:443"]), records);
        let answer = fake.ask("A.example.", RecordType::A).await;
        assert_eq!((answer.metadata.id, answer.answers.len()), (7, 2));
        let script = fake.scripts.try_recv().unwrap();
        assert!(script.contains("host-ports { 203.0.113.1 . 443 timeout 310s }"), "{script}");
    }

    #[tokio::test]
    async fn other_names_are_refused_and_nobody_is_asked() {
        let fake = Fake::start(policy(&[], &["a.example"]), vec![]);
        assert_eq!(fake.code("b.example.", RecordType::A).await, ResponseCode::Refused);
        assert_eq!(fake.code("secret.a.example.", RecordType::TXT).await, ResponseCode::Refused);
        assert_eq!(fake.code("a.example.", RecordType::A).await, ResponseCode::NoError);
        assert_eq!(fake.asked.recv().unwrap().queries[0].name().to_ascii(), "a.example.");
        assert!(fake.asked.try_recv().is_err());
        let deny_all = Policy { deny_all: true, ..policy(&["10.0.0.0/8"], &[]) };
        let fake = Fake::start(deny_all, vec![]);
        assert_eq!(fake.code("a.example.", RecordType::A).await, ResponseCode::Refused);
    }

    #[tokio::test]
    async fn an_open_policy_resolves_all_and_opens_nothing() {
        for policy in [Policy::default(), policy(&["10.0.0.0/8"], &[])] {
            let fake = Fake::start(policy, vec![answers::a("any.example.", 60, [192, 168, 0, 1])]);
            assert_eq!(fake.ask("any.example.", RecordType::A).await.answers.len(), 1);
            assert!(fake.scripts.try_recv().is_err());
        }
    }

    #[tokio::test]
    async fn ipv6_is_answered_with_nothing() {
        let fake = Fake::start(policy(&[], &["a.example"]), vec![]);
        for kind in [RecordType::AAAA, RecordType::HTTPS] {
            let answer = fake.ask("a.example.", kind).await;
            assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
            assert!(answer.answers.is_empty() && answer.queries.len() == 1);
        }
        assert!(fake.asked.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_name_does_not_lead_near_the_host_unless_a_network_is_allowed() {
        for (nets, address, expected) in [
            (&[][..], [10, 0, 0, 1], ResponseCode::Refused),
            (&[], [127, 0, 0, 1], ResponseCode::Refused),
            (&["0.0.0.0/0"], [169, 254, 169, 254], ResponseCode::Refused),
            (&["10.0.0.0/8:443"], [10, 0, 0, 1], ResponseCode::NoError),
        ] {
            let records =
                vec![answers::a("a.example.", 60, [203, 0, 113, 1]), answers::a("a.example.", 60, address)];
            let fake = Fake::start(policy(nets, &["a.example"]), records);
            assert_eq!(fake.code("a.example.", RecordType::A).await, expected, "{address:?}");
            // The network's rule opens it: a name opens no other port there.
            let scripts: String = fake.scripts.try_iter().collect();
            let near = Ipv4Addr::from(address).to_string();
            assert!(!scripts.contains(&near), "{scripts}");
            assert_eq!(scripts.contains("203.0.113.1"), expected == ResponseCode::NoError);
        }
    }

    #[tokio::test]
    async fn what_cannot_be_opened_is_not_answered() {
        let mut fake =
            Fake::start(policy(&[], &["a.example"]), vec![answers::a("a.example.", 60, [203, 0, 113, 1])]);
        // Its scripts find no receiver.
        fake.scripts = mpsc::channel().1;
        assert_eq!(fake.code("a.example.", RecordType::A).await, ResponseCode::ServFail);
    }
}
