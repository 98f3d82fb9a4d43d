//! `ringpost account`: adds, removes and lists accounts, sets their passwords.
//!
//! Inputs: arguments, the accounts file, a password from the terminal (without echo, twice) or one line of standard input;
//! never from an argument or the environment, where other users' `ps` finds it. Outputs: the file changed, or text on stdout.
//! It refuses to write a file that a relay would not read, and to change one that has a mistake in it.

use crate::accounts::edit::{self, EditError};
use crate::accounts::file::{self, LoadError};
use crate::accounts::{Account, Accounts, Fingerprint, Rates, Scheme, Secret};
use crate::limits::{PASSWORD_BYTES, SALT_BYTES};
use crate::smtp::sasl::{KEY_BYTES, Password, prepare_name};
use aws_lc_rs::rand;
use clap::{Args, Subcommand, ValueEnum};
use std::error::Error;
use std::fs::File;
use std::io::{self, IsTerminal, Read};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use toml_edit::{DocumentMut, Item};
use zeroize::Zeroizing;

/// A password shorter than this is warned about.
const SHORT_PASSWORD: usize = 8;

#[derive(Subcommand, Debug)]
pub(super) enum AccountCommand {
    /// Add an account; its password is asked for, or read from standard input.
    #[command(after_help = "\
The password is asked for twice on a terminal; otherwise it is the first line
of standard input. A running relay reads the file on SIGHUP.

Examples:
  ringpost account add ann@example.com -c /etc/ringpost/ringpost.toml
      May send as ann@example.com, and nothing else.
  ringpost account add shop --from @shop.example --from '<>' \\
      --messages-per-minute 60 --file accounts.toml < password.txt
      Any address of shop.example, and notifications.
  ringpost account add printer --from printer@example.com --no-password \\
      --certificate \"$(openssl x509 -noout -fingerprint -sha256 -in printer.pem | cut -d= -f2)\" \\
      -c /etc/ringpost/ringpost.toml
      By its client certificate only (AUTH EXTERNAL).")]
    Add(AddArgs),
    /// Remove an account.
    #[command(after_help = "\
A session that is logged in goes on until it ends. `disabled = true` in the file
locks an account out and keeps it.

Example:
  ringpost account remove ann@example.com -c /etc/ringpost/ringpost.toml
  kill -HUP \"$(pidof ringpost)\"")]
    Remove(NameArgs),
    /// List the accounts: what each may send as, and how much. Shows no secrets.
    #[command(after_help = "\
Examples:
  ringpost account list -c /etc/ringpost/ringpost.toml
  ringpost account list --json --file accounts.toml | jq -r '.[].name'")]
    List(ListArgs),
    /// Give an account another password.
    #[command(after_help = "\
Examples:
  ringpost account password ann@example.com -c /etc/ringpost/ringpost.toml
  pwgen -s 24 1 | ringpost account password shop --file accounts.toml")]
    Password(PasswordArgs),
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct FileArgs {
    /// The relay's configuration: `[accounts] file` in it is the file.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The accounts file itself.
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct AddArgs {
    /// What the client logs in as. An address is usual: then it is also what the account may send as.
    name: String,
    /// What it may send as: an address, `@domain`, `<>` (null sender) or `*` (every address). Repeatable. [default: NAME]
    #[arg(long, value_name = "ADDR|@DOMAIN")]
    from: Vec<String>,
    /// Messages in a minute, at most.
    #[arg(long, value_name = "N")]
    messages_per_minute: Option<u32>,
    /// Messages in a day, at most.
    #[arg(long, value_name = "N")]
    messages_per_day: Option<u32>,
    /// Recipients in a minute, at most.
    #[arg(long, value_name = "N")]
    recipients_per_minute: Option<u32>,
    /// Recipients in a day, at most.
    #[arg(long, value_name = "N")]
    recipients_per_day: Option<u32>,
    #[command(flatten)]
    scheme: SchemeArgs,
    /// SHA-256 fingerprint of a client certificate that may log in without a password.
    #[arg(long, value_name = "FINGERPRINT")]
    certificate: Option<String>,
    /// No password: the account comes by its certificate only.
    #[arg(long, requires = "certificate", conflicts_with = "scheme")]
    no_password: bool,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Args, Debug)]
pub(super) struct NameArgs {
    /// The account.
    name: String,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Args, Debug)]
pub(super) struct ListArgs {
    /// As a JSON array.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Args, Debug)]
pub(super) struct PasswordArgs {
    /// The account.
    name: String,
    #[command(flatten)]
    scheme: SchemeArgs,
    #[command(flatten)]
    file: FileArgs,
}

#[derive(Args, Debug)]
struct SchemeArgs {
    /// What to keep of the password.
    #[arg(long, value_enum, default_value = "scram")]
    scheme: SchemeName,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
enum SchemeName {
    /// SCRAM-SHA-256 keys: the account can use every mechanism.
    Scram,
    /// argon2id: harder to guess if the file is stolen, but PLAIN and LOGIN only, and SCRAM is announced to nobody.
    Argon2id,
}

impl From<SchemeName> for Scheme {
    fn from(name: SchemeName) -> Scheme {
        match name {
            SchemeName::Scram => Scheme::Scram,
            SchemeName::Argon2id => Scheme::Argon2id,
        }
    }
}

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Does what the subcommand says.
pub(super) fn run(command: &AccountCommand) -> Outcome {
    match command {
        AccountCommand::Add(args) => add(args),
        AccountCommand::Remove(args) => {
            let name = name(&args.name)?;
            change(&args.file.path()?, &format!("{name:?} is removed"), |text| edit::remove(text, &name))
        }
        AccountCommand::List(args) => list(args),
        AccountCommand::Password(args) => password(args),
    }
}

fn add(args: &AddArgs) -> Outcome {
    let name = name(&args.name)?;
    let from = match args.from.as_slice() {
        [] if name.contains('@') => vec![name.clone()],
        [] => return Err(format!("{name:?} is no address: say by --from what the account may send as").into()),
        given => given.to_vec(),
    };
    let scheme = Scheme::from(args.scheme.scheme);
    let path = args.file.path()?;
    let mut account = edit::NewAccount {
        name,
        secret: None,
        from,
        certificate: args.certificate.clone(),
        rates: Rates {
            messages_per_minute: args.messages_per_minute,
            messages_per_day: args.messages_per_day,
            recipients_per_minute: args.recipients_per_minute,
            recipients_per_day: args.recipients_per_day,
        },
    };
    let key = random()?;
    if !args.no_password {
        // With a secret of no meaning first: nobody shall type a password twice for an account that is then refused.
        account.secret = Some(Secret::new(scheme, &Password::new(b"trial")?, [0; SALT_BYTES]));
        changed(&path, &read(&path)?, |text| edit::add(text, &account, key))?;
        account.secret = Some(Secret::new(scheme, &ask_password(&account.name)?, random()?));
    }
    change(&path, &format!("{:?} is added", account.name), |text| edit::add(text, &account, key))
}

fn password(args: &PasswordArgs) -> Outcome {
    let (name, path) = (name(&args.name)?, args.file.path()?);
    if file::load(&path, [0; KEY_BYTES])?.get(&name).is_none() {
        return Err(edit::EditError::Absent(name).into());
    }
    let secret = Secret::new(args.scheme.scheme.into(), &ask_password(&name)?, random()?);
    let key = random()?;
    change(&path, &format!("{name:?} has a new password"), |text| edit::set_secret(text, &name, &secret, key))
}

fn list(args: &ListArgs) -> Outcome {
    let accounts = file::load(&args.file.path()?, [0; KEY_BYTES])?;
    if args.json {
        let list: Vec<_> = accounts.iter().map(as_json).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
    } else {
        accounts.iter().for_each(|account| println!("{}", line(account)));
    }
    warn(&accounts);
    Ok(())
}

fn as_json(account: &Account) -> serde_json::Value {
    let mut json = serde_json::json!({
        "name": account.name(),
        "scheme": account.secret().map(|secret| scheme_name(secret.scheme())),
        "from": account.senders().collect::<Vec<_>>(),
        "certificate": account.certificate().map(hexadecimal),
        "disabled": account.is_disabled(),
    });
    for (key, rate) in account.rates().named() {
        json[key] = rate.into();
    }
    json
}

/// `ann@example.com  scram  from ann@example.com @lists.example.com  messages_per_day 1000`
fn line(account: &Account) -> String {
    let mut parts = vec![account.name().to_owned()];
    parts.extend(account.is_disabled().then(|| "DISABLED".to_owned()));
    parts.extend(account.secret().map(|secret| scheme_name(secret.scheme()).to_owned()));
    parts.extend(account.certificate().map(|_| "certificate".to_owned()));
    parts.push(format!("from {}", account.senders().collect::<Vec<_>>().join(" ")));
    parts.extend(account.rates().named().iter().filter_map(|(key, rate)| rate.map(|rate| format!("{key} {rate}"))));
    parts.join("  ")
}

fn scheme_name(scheme: Scheme) -> &'static str {
    match scheme {
        Scheme::Scram => "scram",
        Scheme::Argon2id => "argon2id",
    }
}

fn hexadecimal(print: &Fingerprint) -> String {
    print.iter().map(|octet| format!("{octet:02x}")).collect()
}

// --- the file -------------------------------------------------------------------------------------------------------

impl FileArgs {
    fn path(&self) -> Outcome<PathBuf> {
        match (&self.file, &self.config) {
            (Some(file), _) => Ok(file.clone()),
            (None, Some(config)) => accounts_file(config),
            (None, None) => Err("--config or --file is needed".into()),
        }
    }
}

/// `[accounts] file` of a configuration. The rest of it need not be right: who mends it may have to add accounts.
fn accounts_file(config: &Path) -> Outcome<PathBuf> {
    let shown = config.display();
    let text = std::fs::read_to_string(config).map_err(|error| format!("{shown}: {error}"))?;
    let text: DocumentMut = text.parse().map_err(|error| format!("{shown}: {error}"))?;
    let file = text.get("accounts").and_then(|accounts| accounts.get("file")).and_then(Item::as_str);
    file.map(PathBuf::from)
        .ok_or_else(|| format!("{shown}: it names no accounts file: [accounts] file = \"...\"").into())
}

/// The file's text; empty if there is none yet.
fn read(path: &Path) -> Outcome<String> {
    match file::read(path) {
        Err(LoadError::Read { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        text => Ok(text?),
    }
}

/// The text after an edit, if the file was good and is so still.
fn changed(
    path: &Path,
    text: &str,
    edit: impl FnOnce(&str) -> Result<String, EditError>,
) -> Outcome<(String, Accounts)> {
    let shown = path.display().to_string();
    Accounts::parse(&shown, text, [0; KEY_BYTES]).map_err(LoadError::Wrong)?;
    let new = edit(text).map_err(|error| format!("{shown}: {error}"))?;
    let accounts = Accounts::parse(&shown, &new, [0; KEY_BYTES]);
    let accounts =
        accounts.map_err(|wrong| format!("not changed, for then it would say:\n{}", LoadError::Wrong(wrong)))?;
    Ok((new, accounts))
}

fn change(path: &Path, what: &str, edit: impl FnOnce(&str) -> Result<String, EditError>) -> Outcome {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let writer = file::Writer::new(path).map_err(failed)?;
    let (text, accounts) = changed(path, &read(writer.path())?, edit)?;
    writer.replace(&text).map_err(failed)?;
    println!("{}: {what}", path.display());
    println!("A running relay reads it on SIGHUP: kill -HUP \"$(pidof ringpost)\"");
    warn(&accounts);
    Ok(())
}

fn warn(accounts: &Accounts) {
    accounts.warnings().iter().for_each(|warning| eprintln!("ringpost: warning: {warning}"));
}

fn name(given: &str) -> Outcome<String> {
    prepare_name(given.as_bytes()).map_err(|error| format!("the name {given:?} {error}").into())
}

fn random<const N: usize>() -> Outcome<[u8; N]> {
    let mut octets = [0; N];
    rand::fill(&mut octets).map_err(|_| "the system gives no random numbers")?;
    Ok(octets)
}

// --- the password ---------------------------------------------------------------------------------------------------

fn ask_password(account: &str) -> Outcome<Password> {
    let typed = if io::stdin().is_terminal() {
        let first = Zeroizing::new(rpassword::prompt_password(format!("Password for {account}: "))?);
        let second = Zeroizing::new(rpassword::prompt_password("The same again: ")?);
        if first != second {
            return Err("the two are not the same".into());
        }
        Zeroizing::new(first.as_bytes().to_vec())
    } else {
        // Not by Stdin, whose buffer would keep it.
        first_line(&mut File::from(io::stdin().as_fd().try_clone_to_owned()?))?
    };
    let characters = String::from_utf8_lossy(&typed).chars().count();
    let password = Password::new(&typed).map_err(|error| format!("the password {error}"))?;
    if characters < SHORT_PASSWORD {
        eprintln!(
            "ringpost: warning: a password of {characters} characters is guessed soon: take {SHORT_PASSWORD} or more"
        );
    }
    Ok(password)
}

/// The first line without its end, of `PASSWORD_BYTES` at most; what is longer comes back a little too long.
fn first_line(from: &mut impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut line = Zeroizing::new(Vec::with_capacity(PASSWORD_BYTES + 2));
    let mut octet = [0];
    while line.len() < PASSWORD_BYTES + 2 && from.read(&mut octet)? == 1 && octet != *b"\n" {
        line.push(octet[0]);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn one_line_of_input_is_the_password() {
        for (input, line) in [("a b\r\nc", "a b"), ("a\n\n", "a"), ("a", "a"), ("\n", ""), ("", "")] {
            assert_eq!(first_line(&mut input.as_bytes()).unwrap().as_slice(), line.as_bytes(), "{input:?}");
        }
        let long = [b'x'; PASSWORD_BYTES + 9];
        assert!(Password::new(&first_line(&mut long.as_slice()).unwrap()).is_err());
        let longest = [[b'x'; PASSWORD_BYTES].as_slice(), b"\r\n"].concat();
        assert!(Password::new(&first_line(&mut longest.as_slice()).unwrap()).is_ok());
    }

    #[test]
    fn the_file_is_named_by_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("ringpost.toml");
        std::fs::write(&config, "hostname = 1\n[accounts]\nfile = \"/etc/accounts.toml\"\n").unwrap();
        assert_eq!(accounts_file(&config).unwrap(), Path::new("/etc/accounts.toml"));
        std::fs::write(&config, "[accounts]\n").unwrap();
        assert!(accounts_file(&config).unwrap_err().to_string().contains("names no accounts file"));
    }
}
