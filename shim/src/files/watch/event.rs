//! What fanotify writes. Source: fanotify(7), linux/fanotify.h.

use nix::sys::fanotify::MaskFlags;

/// Bytes of `struct fanotify_event_metadata`.
const METADATA: usize = 24;

/// Bytes of `struct fanotify_event_info_header`, and the file system's id after it.
const INFO: usize = 4;
const FSID: usize = 8;

/// Bytes of `struct file_handle` before the handle itself.
const HANDLE: usize = 8;

/// An event.
#[derive(Debug, PartialEq)]
pub struct Event<'a> {
    pub mask: MaskFlags,
    /// Who did it, in the reader's pid namespace.
    pub pid: i32,
    /// Where it was.
    pub named: Option<Named<'a>>,
    /// What it was done to, as `handle` says.
    pub file: Option<&'a [u8]>,
}

/// A name in a directory.
#[derive(Debug, PartialEq)]
pub struct Named<'a> {
    /// As `handle` says.
    pub directory: &'a [u8],
    /// `.` for the directory itself.
    pub name: &'a [u8],
}

/// The events in what was read, as far as it makes sense.
pub fn parse(mut bytes: &[u8]) -> impl Iterator<Item = Event<'_>> {
    std::iter::from_fn(move || {
        let length = number::<4>(bytes, 0).map(u32::from_ne_bytes)? as usize;
        let (event, rest) = bytes.split_at_checked(length)?;
        bytes = rest;
        one(event)
    })
}

fn one(event: &[u8]) -> Option<Event<'_>> {
    let metadata = number::<2>(event, 6).map(u16::from_ne_bytes)? as usize;
    let mask = MaskFlags::from_bits_retain(number::<8>(event, 8).map(u64::from_ne_bytes)?);
    let pid = number::<4>(event, METADATA - 4).map(i32::from_ne_bytes)?;
    let mut parsed = Event { mask, pid, named: None, file: None };
    let mut infos = event.get(metadata..)?;
    while infos.len() > INFO {
        let length = number::<2>(infos, 2).map(u16::from_ne_bytes)? as usize;
        let (info, rest) = infos.split_at_checked(length.max(1))?;
        infos = rest;
        let Some(body) = info.get(INFO..) else { continue };
        match info[0] {
            libc::FAN_EVENT_INFO_TYPE_FID => parsed.file = Some(split(body)?.0),
            libc::FAN_EVENT_INFO_TYPE_DFID_NAME => {
                let (directory, name) = split(body)?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                parsed.named = Some(Named { directory, name });
            }
            _ => {}
        }
    }
    Some(parsed)
}

/// A file system's id with a handle, and what comes after them.
fn split(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = number::<4>(body, FSID).map(u32::from_ne_bytes)? as usize;
    body.split_at_checked(FSID + HANDLE + length)
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(kind: u8, handle: &[u8], name: &[u8]) -> Vec<u8> {
        let mut body = vec![7; FSID];
        body.extend((handle.len() as u32).to_ne_bytes());
        body.extend(1i32.to_ne_bytes());
        body.extend(handle);
        body.extend(name);
        let mut info = vec![kind, 0];
        info.extend((body.len() as u16 + 4).to_ne_bytes());
        info.extend(body);
        info
    }

    fn event(mask: u64, pid: i32, infos: &[Vec<u8>]) -> Vec<u8> {
        let infos = infos.concat();
        let mut event = ((METADATA + infos.len()) as u32).to_ne_bytes().to_vec();
        event.extend([3, 0]);
        event.extend((METADATA as u16).to_ne_bytes());
        event.extend(mask.to_ne_bytes());
        event.extend((-1i32).to_ne_bytes());
        event.extend(pid.to_ne_bytes());
        event.extend(infos);
        event
    }

    #[test]
    fn events_are_read_one_after_the_other() {
        let named = info(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"directory", b"name\0\0\0");
        let file = info(libc::FAN_EVENT_INFO_TYPE_FID, b"file", b"");
        let bytes =
            [event(libc::FAN_MODIFY, 5, &[named, file]), event(libc::FAN_Q_OVERFLOW, 0, &[])].concat();
        let events: Vec<_> = parse(&bytes).collect();
        assert_eq!(events.len(), 2);
        let named = events[0].named.as_ref().unwrap();
        assert_eq!((events[0].pid, named.name), (5, &b"name"[..]));
        assert!(named.directory.ends_with(b"directory"));
        assert!(events[0].file.unwrap().ends_with(b"file"));
        assert_eq!(events[1].mask, MaskFlags::FAN_Q_OVERFLOW);
    }

    #[test]
    fn whatever_is_cut_off_ends_it() {
        let named = info(libc::FAN_EVENT_INFO_TYPE_DFID_NAME, b"directory", b"name\0");
        let bytes = event(libc::FAN_MODIFY, 5, &[named]);
        for length in 0..bytes.len() {
            assert_eq!(parse(&bytes[..length]).count(), 0, "{length}");
        }
        assert_eq!(parse(&[0; 64]).count(), 0);
    }
}
