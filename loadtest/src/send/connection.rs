//! One client connection: writes commands, reads replies, with buffers that last as long as the connection.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// Octets of one reply, at most; a server that says more is hung up on.
const REPLY_OCTETS: usize = 64 << 10;

pub(super) struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    taken: usize,
    /// The last line of the last reply, for error messages.
    pub last_line: Vec<u8>,
    /// Whether the server announced PIPELINING.
    pub pipelining: bool,
}

impl Connection {
    /// Connects, takes the greeting, says EHLO. A greeting or EHLO reply other than 2xx is the code in `Err`.
    pub async fn open(target: SocketAddr, source: Option<SocketAddr>) -> io::Result<Result<Connection, u16>> {
        let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if let Some(source) = source {
            socket.set_reuseaddr(true)?;
            socket.bind(source)?;
        }
        let stream = socket.connect(target).await?;
        stream.set_nodelay(true)?;
        let mut c =
            Connection { stream, input: Vec::with_capacity(4096), taken: 0, last_line: Vec::new(), pipelining: false };
        let code = c.reply().await?;
        if code / 100 != 2 {
            return Ok(Err(code));
        }
        c.write(b"EHLO load.test\r\n").await?;
        let code = c.reply().await?;
        if code / 100 != 2 {
            return Ok(Err(code));
        }
        Ok(Ok(c))
    }

    pub async fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets).await
    }

    /// All parts in one system call, if the socket's buffer takes them.
    pub async fn write_parts(&mut self, parts: &[&[u8]; 4]) -> io::Result<()> {
        let mut slices = parts.map(IoSlice::new);
        let mut left: &mut [IoSlice] = &mut slices;
        IoSlice::advance_slices(&mut left, 0);
        while !left.is_empty() {
            let n = self.stream.write_vectored(left).await?;
            if n == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            IoSlice::advance_slices(&mut left, n);
        }
        Ok(())
    }

    /// The next reply's code (RFC 5321 §4.2). Errors: the connection's, and what is no reply.
    pub async fn reply(&mut self) -> io::Result<u16> {
        let mut total = 0;
        loop {
            while let Some(end) = memchr::memchr(b'\n', &self.input[self.taken..]) {
                let line = &self.input[self.taken..self.taken + end];
                let line = line.strip_suffix(b"\r").unwrap_or(line);
                let code = line.get(..3).and_then(crate::traffic::number).filter(|c| (200..600).contains(c));
                let Some(code) = code else {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "what came is no SMTP reply"));
                };
                let more = line.get(3) == Some(&b'-');
                if line.get(4..).is_some_and(|word| word.eq_ignore_ascii_case(b"PIPELINING")) {
                    self.pipelining = true;
                }
                if !more && code >= 400 {
                    self.last_line.clear();
                    self.last_line.extend_from_slice(line);
                }
                total += end + 1;
                self.taken += end + 1;
                if !more {
                    return Ok(code as u16);
                }
            }
            if total + self.input.len() - self.taken > REPLY_OCTETS {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a reply without end"));
            }
            if self.taken == self.input.len() {
                self.input.clear();
            } else {
                self.input.drain(..self.taken);
            }
            self.taken = 0;
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// QUIT and its reply; whatever goes wrong with it does not matter.
    pub async fn quit(mut self) {
        if self.write(b"QUIT\r\n").await.is_ok() {
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), self.reply()).await;
        }
    }
}
