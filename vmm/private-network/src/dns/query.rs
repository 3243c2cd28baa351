//! What a VM asks.

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query as Question, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};

/// The longest query that is looked at.
pub const MAX: usize = 4096;

/// The longest answer that is asked for by UDP: it goes through every link in one piece. Source: DNS Flag Day 2020.
const MAX_PAYLOAD: u16 = 1232;

/// A query of a VM.
pub struct Query {
    message: Message,
    question: Question,
}

impl Query {
    /// Reads it.
    ///
    /// # Errors
    /// The answer to what is no query that can be answered; `None` is none.
    pub fn read(bytes: &[u8]) -> Result<Query, Option<Vec<u8>>> {
        let id = bytes.first_chunk().map(|id| u16::from_be_bytes(*id)).ok_or(None)?;
        let refused = |op_code, code| Err(Message::error_msg(id, op_code, code).to_vec().ok());
        if bytes.len() > MAX {
            return refused(OpCode::Query, ResponseCode::FormErr);
        }
        let Ok(message) = Message::from_vec(bytes) else {
            return refused(OpCode::Query, ResponseCode::FormErr);
        };
        // An answer to an answer could go on for ever.
        if message.metadata.message_type != MessageType::Query {
            return Err(None);
        }
        if message.metadata.op_code != OpCode::Query {
            return refused(message.metadata.op_code, ResponseCode::NotImp);
        }
        match message.queries.as_slice() {
            [question] if question.query_class() == DNSClass::IN => {
                let question = question.clone();
                Ok(Query { message, question })
            }
            [_] => refused(OpCode::Query, ResponseCode::Refused),
            _ => refused(OpCode::Query, ResponseCode::FormErr),
        }
    }

    /// The id that its answer must have.
    pub fn id(&self) -> u16 {
        self.message.metadata.id
    }

    /// What is asked for.
    pub fn kind(&self) -> RecordType {
        self.question.query_type()
    }

    /// The name, as a policy compares it.
    pub fn name(&self) -> String {
        plain(self.question.name())
    }

    /// The question.
    pub fn question(&self) -> &Question {
        &self.question
    }

    /// The same question in a message of our own with a random id: nothing else of the VM's leaves the host.
    pub fn upstream(&self) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.metadata.checking_disabled = self.message.metadata.checking_disabled;
        message.add_query(self.question.clone());
        if let Some(asked) = &self.message.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(asked.max_payload().clamp(512, MAX_PAYLOAD));
            edns.set_dnssec_ok(asked.flags().dnssec_ok);
            message.set_edns(edns);
        }
        message
    }

    /// An answer without records.
    pub fn empty(&self, code: ResponseCode) -> Option<Vec<u8>> {
        let mut message = Message::error_msg(self.id(), OpCode::Query, code);
        message.metadata.recursion_desired = self.message.metadata.recursion_desired;
        message.metadata.recursion_available = true;
        message.add_query(self.question.clone());
        message.to_vec().ok()
    }
}

/// A name in lower case and without its last dot. What is no letter, digit, `-` or `_` is escaped, so it matches no policy.
pub fn plain(name: &Name) -> String {
    let mut text = name.to_ascii().to_ascii_lowercase();
    text.truncate(text.trim_end_matches('.').len());
    text
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A query as a VM would send it.
    pub fn bytes(name: &str, kind: RecordType) -> Vec<u8> {
        let mut message = Message::query();
        message.metadata.id = 7;
        message.add_query(Question::query(Name::from_ascii(name).unwrap(), kind));
        message.to_vec().unwrap()
    }

    fn code(bytes: &[u8]) -> Option<ResponseCode> {
        let answer = Query::read(bytes).err().unwrap();
        answer.map(|bytes| Message::from_vec(&bytes).unwrap().metadata.response_code)
    }

    #[test]
    fn only_the_question_leaves_the_host() {
        let mut message = Message::from_vec(&bytes("A.Example.", RecordType::A)).unwrap();
        let mut edns = Edns::new();
        edns.set_max_payload(9000);
        let secret = hickory_proto::rr::rdata::opt::EdnsOption::Unknown(65001, b"secret".to_vec());
        edns.options_mut().insert(secret);
        message.set_edns(edns);
        let query = Query::read(&message.to_vec().unwrap()).ok().unwrap();
        let upstream = query.upstream();
        assert_eq!(query.name(), "a.example");
        assert_eq!(upstream.queries, message.queries);
        let edns = upstream.edns.as_ref().unwrap();
        assert_eq!(edns.max_payload(), MAX_PAYLOAD);
        assert!(edns.options().as_ref().is_empty());
    }

    #[test]
    fn what_is_no_query_is_refused_and_an_answer_is_not_answered() {
        let good = bytes("a.example.", RecordType::A);
        assert!(Query::read(&good).is_ok());
        assert_eq!(Query::read(&[7]).err().unwrap(), None);
        assert_eq!(code(&good[..good.len() - 1]), Some(ResponseCode::FormErr));
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert_eq!(code(&answer), None);
        let mut update = good.clone();
        update[2] |= 5 << 3;
        assert_eq!(code(&update), Some(ResponseCode::NotImp));
        let mut chaos = good.clone();
        *chaos.last_mut().unwrap() = 3;
        assert_eq!(code(&chaos), Some(ResponseCode::Refused));
        assert_eq!(code(&[good, vec![0; MAX]].concat()), Some(ResponseCode::FormErr));
    }
}
