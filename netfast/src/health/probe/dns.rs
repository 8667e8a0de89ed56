//! A DNS query by UDP.

use std::{
    hash::{BuildHasher, RandomState},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
};

use simple_dns::{CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, RCODE, TYPE};
use tokio::net::UdpSocket;

use super::Fault;
use crate::api::types::{Health, Rcode, RecordType};

/// Sends the query and judges the answer.
pub(super) async fn ask(check: &Health, to: SocketAddr) -> Result<(), Fault> {
    let id = RandomState::new().hash_one(to) as u16;
    let query = query(check, id)
        .map_err(|error| Fault::Local(format!("no query can be made of the check: {error}")))?;
    let any = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(to).await?;
    socket.send(&query).await?;
    let mut answer = [0; 4096];
    loop {
        let length = socket.recv(&mut answer).await?;
        if let Some(verdict) = judge(check, id, &answer[..length]) {
            return verdict;
        }
    }
}

fn query(check: &Health, id: u16) -> Result<Vec<u8>, simple_dns::SimpleDnsError> {
    let name = check.name.as_deref().unwrap_or(".");
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    let name = Name::new(name.trim_end_matches('.'))?;
    packet.questions.push(Question::new(
        name,
        QTYPE::TYPE(record(check.record)),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    packet.build_bytes_vec()
}

const fn record(record: RecordType) -> TYPE {
    match record {
        RecordType::A => TYPE::A,
        RecordType::Aaaa => TYPE::AAAA,
        RecordType::Mx => TYPE::MX,
        RecordType::Ns => TYPE::NS,
        RecordType::Soa => TYPE::SOA,
        RecordType::Srv => TYPE::SRV,
        RecordType::Txt => TYPE::TXT,
    }
}

fn rcode(code: RCODE) -> String {
    let known = match code {
        RCODE::NoError => Rcode::NoError,
        RCODE::NameError => Rcode::NxDomain,
        RCODE::Refused => Rcode::Refused,
        RCODE::ServerFailure => Rcode::ServFail,
        other => return format!("{other:?}").to_lowercase(),
    };
    known.to_string()
}

/// What an answer means; `None` if it is none to this question.
fn judge(check: &Health, id: u16, answer: &[u8]) -> Option<Result<(), Fault>> {
    let header = simple_dns::header_buffer::id(answer).ok()?;
    if header != id || !simple_dns::header_buffer::has_flags(answer, PacketFlag::RESPONSE).ok()? {
        return None;
    }
    let fault = |words| Some(Err(Fault::target(words)));
    let Ok(packet) = Packet::parse(answer) else { return fault("the answer is no DNS message".to_owned()) };
    let (code, wanted) = (rcode(packet.rcode()), check.rcode.to_string());
    if code != wanted {
        return fault(format!("answer {code}, wanted {wanted}"));
    }
    let cut = packet.has_flags(PacketFlag::TRUNCATION);
    if check.rcode == Rcode::NoError && packet.answers.is_empty() && !cut {
        let name = check.name.as_deref().unwrap_or(".");
        return fault(format!("no record of type {} for {name}", check.record));
    }
    Some(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(words: &str) -> Option<Result<(), Fault>> {
        Some(Err(Fault::target(words)))
    }

    #[test]
    fn the_query_is_the_one_of_the_rfc() {
        let check: Health = "dns:a.example,record=aaaa".parse().unwrap();
        let bytes = query(&check, 0x1234).unwrap();
        let wanted = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x07example\x00\x00\x1c\x00\x01";
        assert_eq!(wanted.as_slice(), bytes);
        let root: Health = "dns:.,record=ns".parse().unwrap();
        assert_eq!(b"\x00\x00\x02\x00\x01", &query(&root, 1).unwrap()[12..]);
    }

    #[test]
    fn answers() {
        let check: Health = "dns:a.example".parse().unwrap();
        let question = b"\x01a\x07example\x00\x00\x01\x00\x01";
        let record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\xcb\x00\x71\x01";
        let message = |flags: u16, answers: u16| {
            let mut bytes = vec![0x12, 0x34];
            bytes.extend(flags.to_be_bytes());
            bytes.extend([0, 1]);
            bytes.extend(answers.to_be_bytes());
            bytes.extend([0; 4]);
            bytes.extend(question);
            (0..answers).for_each(|_| bytes.extend(record));
            bytes
        };
        let judge = |check: &Health, bytes: &[u8]| judge(check, 0x1234, bytes);
        assert_eq!(Some(Ok(())), judge(&check, &message(0x8180, 1)));
        assert_eq!(None, judge(&check, &message(0x0100, 0)), "a question");
        assert_eq!(None, super::judge(&check, 0x4321, &message(0x8180, 1)), "of another query");
        assert_eq!(None, judge(&check, b"hello"));
        assert_eq!(fault("no record of type a for a.example"), judge(&check, &message(0x8180, 0)));
        assert_eq!(Some(Ok(())), judge(&check, &message(0x8380, 0)), "truncated");
        assert_eq!(fault("answer servfail, wanted noerror"), judge(&check, &message(0x8182, 0)));
        let none: Health = "dns:a.example,rcode=nxdomain".parse().unwrap();
        assert_eq!(Some(Ok(())), judge(&none, &message(0x8183, 0)));
        let cut = message(0x8180, 1);
        assert_eq!(fault("the answer is no DNS message"), judge(&check, &cut[..cut.len() - 3]));
    }
}
