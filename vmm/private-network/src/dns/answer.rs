//! What a resolver answers.

use std::{net::Ipv4Addr, time::Duration};

use hickory_proto::{
    op::{Message, MessageType, Query as Question},
    rr::{Name, RData},
};

/// The most addresses that an answer may have which opens the policy.
const MAX_ADDRESSES: usize = 256;

/// The longest chain of aliases that is followed.
const MAX_ALIASES: usize = 16;

/// An answer to a question.
pub struct Answer {
    bytes: Vec<u8>,
    message: Message,
}

impl Answer {
    /// Reads it; `None` when it is no answer to `question` with this id.
    pub fn read(bytes: Vec<u8>, id: u16, question: &Question) -> Option<Answer> {
        let message = Message::from_vec(&bytes).ok()?;
        let is_answer = message.metadata.message_type == MessageType::Response
            && message.metadata.id == id
            && message.queries.as_slice() == std::slice::from_ref(question);
        is_answer.then_some(Answer { bytes, message })
    }

    /// The addresses that it gives for the question's name, through its aliases, each with the time that it holds. `None`: it
    /// has too many.
    pub fn addresses(&self) -> Option<Vec<(Ipv4Addr, Duration)>> {
        let mut name = self.message.queries.first()?.name();
        for _ in 0..MAX_ALIASES {
            match self.alias(name) {
                Some(next) => name = next,
                None => break,
            }
        }
        let addresses = self.message.answers.iter().filter(|record| record.name == *name);
        let addresses: Vec<_> = addresses
            .filter_map(|record| match &record.data {
                RData::A(address) => Some((address.0, Duration::from_secs(record.ttl.into()))),
                _ => None,
            })
            .collect();
        (addresses.len() <= MAX_ADDRESSES).then_some(addresses)
    }

    fn alias(&self, name: &Name) -> Option<&Name> {
        self.message.answers.iter().find_map(|record| match &record.data {
            RData::CNAME(alias) if record.name == *name => Some(&alias.0),
            _ => None,
        })
    }

    /// The answer for a VM: with its id, and held for `longest` at most.
    pub fn for_vm(mut self, id: u16, longest: Option<Duration>) -> Option<Vec<u8>> {
        let longest = longest.map_or(u32::MAX, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        if self.message.answers.iter().any(|record| record.ttl > longest) {
            for record in &mut self.message.answers {
                record.ttl = record.ttl.min(longest);
            }
            self.message.metadata.id = id;
            return self.message.to_vec().ok();
        }
        self.bytes.first_chunk_mut().map(|first| *first = id.to_be_bytes())?;
        Some(self.bytes)
    }
}

#[cfg(test)]
pub mod tests {
    use hickory_proto::rr::{Record, RecordType, rdata};

    use super::*;
    use crate::dns::query::{Query, tests::bytes};

    /// A record of an answer.
    pub fn a(name: &str, ttl: u32, address: [u8; 4]) -> Record {
        Record::from_rdata(Name::from_ascii(name).unwrap(), ttl, RData::A(rdata::A(Ipv4Addr::from(address))))
    }

    /// An alias.
    pub fn cname(name: &str, to: &str) -> Record {
        let to = rdata::CNAME(Name::from_ascii(to).unwrap());
        Record::from_rdata(Name::from_ascii(name).unwrap(), 300, RData::CNAME(to))
    }

    /// The answer of a resolver to the query in `asked`.
    pub fn answer(asked: &[u8], records: Vec<Record>) -> Vec<u8> {
        let mut message = Message::from_vec(asked).unwrap().into_response();
        message.add_answers(records);
        message.to_vec().unwrap()
    }

    fn read(records: Vec<Record>) -> Answer {
        let asked = bytes("a.example.", RecordType::A);
        let query = Query::read(&asked).ok().unwrap();
        Answer::read(answer(&asked, records), 7, query.question()).unwrap()
    }

    #[test]
    fn an_answer_must_be_to_the_question() {
        let asked = bytes("a.example.", RecordType::A);
        let query = Query::read(&asked).ok().unwrap();
        let good = answer(&asked, vec![a("a.example.", 60, [203, 0, 113, 1])]);
        assert!(Answer::read(good.clone(), 7, query.question()).is_some());
        assert!(Answer::read(good, 8, query.question()).is_none());
        let other = bytes("b.example.", RecordType::A);
        assert!(Answer::read(answer(&other, vec![]), 7, query.question()).is_none());
        let kind = bytes("a.example.", RecordType::TXT);
        assert!(Answer::read(answer(&kind, vec![]), 7, query.question()).is_none());
        assert!(Answer::read(asked.clone(), 7, query.question()).is_none());
    }

    #[test]
    fn addresses_are_those_of_the_name_and_its_aliases() {
        let answer = read(vec![
            a("c.test.", 60, [203, 0, 113, 1]),
            a("other.test.", 60, [203, 0, 113, 2]),
            cname("b.test.", "C.test."),
            cname("A.example.", "b.test."),
        ]);
        assert_eq!(answer.addresses().unwrap(), [(Ipv4Addr::new(203, 0, 113, 1), Duration::from_secs(60))]);
    }

    #[test]
    fn aliases_in_a_circle_end_and_too_many_addresses_are_none() {
        let answer = read(vec![cname("a.example.", "b.test."), cname("b.test.", "a.example.")]);
        assert!(answer.addresses().unwrap().is_empty());
        let many =
            (0..=MAX_ADDRESSES).map(|i| a("a.example.", 60, [203, 0, (i >> 8) as u8, i as u8])).collect();
        assert!(read(many).addresses().is_none());
    }

    #[test]
    fn a_vm_holds_an_answer_no_longer_than_its_address_is_open() {
        let record = |bytes: &[u8]| {
            let message = Message::from_vec(bytes).unwrap();
            (message.metadata.id, message.answers[0].ttl)
        };
        let long = || read(vec![a("a.example.", 86400, [203, 0, 113, 1])]);
        assert_eq!(record(&long().for_vm(9, Some(Duration::from_secs(3600))).unwrap()), (9, 3600));
        assert_eq!(record(&long().for_vm(9, None).unwrap()), (9, 86400));
    }
}
