//! What is added to interfaces to join them: an ingress qdisc each, and filters that redirect frames or drop them. Source:
//! linux/pkt_sched.h, linux/pkt_cls.h.

use linux::netlink::{
    Emitable,
    netlink_packet_core::DefaultNla,
    netlink_packet_route::tc::{
        TcAction, TcActionAttribute, TcActionGeneric, TcActionMirror, TcActionMirrorOption, TcActionOption,
        TcActionType, TcAttribute, TcFilterMatchAll, TcFilterMatchAllOption, TcFilterU32, TcFilterU32Option,
        TcHandle, TcMessage, TcMirror, TcMirrorActionType, TcOption, TcU32Selector, TcU32SelectorFlags,
    },
};

use super::anti_spoofing::Rule;

/// The ingress qdisc's handle, which is fixed. Source: tc-ingress, `sch_ingress.c`.
const INGRESS: TcHandle = TcHandle { major: 0xffff, minor: 0 };

/// The ingress qdisc's name.
const INGRESS_KIND: &str = "ingress";

/// All frames. Source: `ETH_P_ALL`, linux/if_ether.h.
const ALL: u16 = 0x0003;

/// The action that decides at once. Source: linux/tc_act/tc_gact.h.
const VERDICT_KIND: &str = "gact";
const VERDICT_PARMS: u16 = 2;

/// The first filter's priority; higher numbers come later.
const FIRST: u16 = 1;

/// The ingress qdisc of an interface.
pub fn ingress(interface: u32) -> TcMessage {
    let mut message = TcMessage::with_index(interface as i32);
    message.header.handle = INGRESS;
    message.header.parent = TcHandle::INGRESS;
    message.attributes.push(TcAttribute::Kind(INGRESS_KIND.to_owned()));
    message
}

/// A filter for frames of `protocol` that come in.
fn filter(protocol: u16, priority: u16, (kind, options): (&str, TcOption)) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.parent = INGRESS;
    // Source: tc's `TC_H_MAKE(prio << 16, protocol)`, the protocol in network order.
    message.header.info = u32::from(priority) << 16 | u32::from(protocol.to_be());
    message.attributes = vec![TcAttribute::Kind(kind.to_owned()), TcAttribute::Options(vec![options])];
    message
}

/// The filters of an interface of which everything goes to the interface `to`.
pub fn unguarded(to: u32) -> Vec<TcMessage> {
    vec![filter(ALL, FIRST, match_all(redirect(to)))]
}

/// The filters of a tap whose guest may send to the interface `to` what `rules` let through.
pub fn guarded(rules: Vec<Rule>, to: u32) -> Vec<TcMessage> {
    let mut filters = Vec::new();
    for (Rule { protocol, keys, passes }, priority) in rules.into_iter().zip(FIRST..) {
        let action = if passes { redirect(to) } else { drop_frame() };
        let mut selector = TcU32Selector::default();
        selector.flags = TcU32SelectorFlags::Terminal;
        selector.nkeys = keys.len() as u8;
        selector.keys = keys;
        let mut filter = filter(
            protocol,
            priority,
            (TcFilterU32::KIND, TcOption::U32(TcFilterU32Option::Selector(selector))),
        );
        if let Some(TcAttribute::Options(options)) = filter.attributes.last_mut() {
            options.push(TcOption::U32(TcFilterU32Option::Action(vec![action])));
        }
        filters.push(filter);
    }
    filters.push(filter(ALL, FIRST + filters.len() as u16, match_all(drop_frame())));
    filters
}

fn match_all(action: TcAction) -> (&'static str, TcOption) {
    (TcFilterMatchAll::KIND, TcOption::MatchAll(TcFilterMatchAllOption::Action(vec![action])))
}

/// The action that sends a frame out on `to`.
fn redirect(to: u32) -> TcAction {
    let mut mirror = TcMirror::default();
    mirror.generic.action = TcActionType::Stolen;
    mirror.eaction = TcMirrorActionType::EgressRedir;
    mirror.ifindex = to;
    action(TcActionMirror::KIND, TcActionOption::Mirror(TcActionMirrorOption::Parms(mirror)))
}

/// The action that drops a frame.
fn drop_frame() -> TcAction {
    let mut verdict = TcActionGeneric::default();
    verdict.action = TcActionType::Shot;
    let mut bytes = vec![0; verdict.buffer_len()];
    verdict.emit(&mut bytes);
    action(VERDICT_KIND, TcActionOption::Other(DefaultNla::new(VERDICT_PARMS, bytes)))
}

fn action(kind: &str, options: TcActionOption) -> TcAction {
    let mut action = TcAction::default();
    action.attributes =
        vec![TcActionAttribute::Kind(kind.to_owned()), TcActionAttribute::Options(vec![options])];
    action
}
