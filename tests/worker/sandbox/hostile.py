"""What a stranger's model might do in an engine, had it got past the gate and the rebuilding: Python that does it.

Each begins with `BEGINNING`, which tells the log that it has begun and knows where a stranger would look: a file of
another tenant, sockets that somebody listens on, a secret. What finds something says so by the word LEAK.
"""

BEGINNING = """
import ctypes, json, os, signal, socket, sys, threading, time
CANARY, TCP, UDP, LOCAL = {canary!r}, {tcp!r}, {udp!r}, {local!r}
JOB = sys.argv[1]
RESULT = JOB + '/result'
CONTROL, PROGRESS = (int(sys.argv[sys.argv.index(name) + 1]) for name in ('--control', '--progress'))
LIBC = ctypes.CDLL(None, use_errno=True)
def say(**event): os.write(PROGRESS, json.dumps(event).encode() + b'\\n')
def leave(name, content):
    os.makedirs(os.path.dirname(RESULT + '/' + name), exist_ok=True)
    open(RESULT + '/' + name, 'w').write(content if isinstance(content, str) else json.dumps(content))
def leak(*what): print('LE' + 'AK', *what, flush=True)  # in two parts, for tracebacks show the line
print('it has begun', flush=True)
"""

# What gets its way where there is no fence, so that a fence is what stops it.
REACHING = {
    "reads another tenant's file": "leak(open(CANARY).read())",
    "writes another tenant's file": "open(CANARY, 'w').write('taken')",
    "writes beside another tenant's file": "open(CANARY + '.taken', 'w').write('taken')",
    "reads the host's users": "leak(open('/etc/passwd').read())",
    "reads secrets from the environment": "'HOUSE_MATTER' in os.environ and leak()",
    "reads secrets of other processes": (
        "\nfor process in filter(str.isdigit, os.listdir('/proc')):\n"
        " try: b'HOUSE_MATTER' in open(f'/proc/{process}/environ', 'rb').read() and leak()\n"
        " except OSError: pass"
    ),
    "connects by TCP": "socket.create_connection(TCP, 2).send(b'x')",
    "connects by UDP": "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', UDP)",
    "connects by a local socket": "s = socket.socket(socket.AF_UNIX); s.connect(LOCAL); s.send(b'x')",
    "connects by an abstract socket": "s = socket.socket(socket.AF_UNIX); s.connect('\\0' + LOCAL); s.send(b'x')",
    "starts a shell": "import subprocess; subprocess.run(['/bin/sh', '-c', 'true']); leak()",
    "forks": "os.fork() or leak()",
    "fills memory by files in the root": "open('/flood', 'wb').write(bytes(2**20)); leak()",
    "fills memory by files among devices": "open('/dev/flood', 'wb').write(bytes(2**20)); leak()",
}

# What has to be ended, or comes to nothing.
RAMPANT = {
    "calls home": "socket.create_connection(('1.1.1.1', 53), 2)",
    "writes over our code": "import worker; open(worker.__path__[0] + '/taken.py', 'w').write('x'); leak()",
    "writes over the model": "open(JOB + '/model.pt', 'wb').write(b'other')",
    "forks without end": "\nwhile True: os.fork()",
    "starts threads without end": (
        "\nwhile True:\n"
        " try: threading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n"
        " except RuntimeError: pass"
    ),
    "ends its parents": "\nfor process in range(1, 100000):\n try: os.kill(process, 9)\n except OSError: pass",
    "ends its whole group": "os.kill(-1, 9)",
    "traces its parent": "LIBC.ptrace(16, 1, 0, 0) == 0 and leak()",
    "mounts": "LIBC.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0 and leak()",
    "makes a namespace": "LIBC.unshare(0x10000000) == 0 and leak()",
    "stops itself": "os.kill(os.getpid(), signal.SIGSTOP)",
    "computes for ever": "\nwhile True: pass",
    "computes for ever and is deaf": (
        "\nfor number in set(signal.Signals) - {9, 19}: signal.signal(number, signal.SIG_IGN)\nwhile True: pass"
    ),
    "reports progress for ever": "\nwhile True: say(event='step', labels=[], done=1, of=10**5); time.sleep(0.05)",
    "closes the control pipe and goes on": "os.close(CONTROL)\nwhile True: time.sleep(1)",
    "closes the progress pipe and goes on": "os.close(PROGRESS)\nwhile True: time.sleep(1)",
    "prints for ever": "\nwhile True: print('x' * 10000)",
    "prints errors for ever": "\nwhile True: print('x' * 10000, file=sys.stderr)",
    "reports without end": "\nwhile True: say(event='stage', stage='x' * 1000)",
    "reports a line without end": "\nwhile True: os.write(PROGRESS, b'x' * 65536)",
    "reports nonsense": "say(event='label', label='all', norm='small', attack_success_rate=1.0); time.sleep(60)",
    "reports on a label that is not its task's": "say(event='step', labels=[7], done=1, of=9); time.sleep(60)",
    "reports another scan's end": "say(event='finished', verdict='no_backdoor_found'); time.sleep(60)",
    "takes a terabyte": "b = bytearray(2**40)",
    "takes memory bit by bit": "b = []\nwhile True: b.append(bytearray(os.urandom(2**20) * 16))",
    "takes memory that is not counted as its own": (
        "import mmap\nb = []\nwhile True:\n"
        " b.append(mmap.mmap(-1, 2**26)); b[-1].write(b'x' * 2**26); b[-1].madvise(mmap.MADV_DONTNEED)"
    ),
    "takes memory in files without a name": (
        "\nwhile True:\n f = os.memfd_create('x')\n for _ in range(64): os.write(f, b'x' * 2**20)"
    ),
    "fills the disk": "\nfor n in range(10**6): open(f'{RESULT}/{n}', 'wb').write(bytes(2**24))",
    "fills the disk by a thousand files a moment": "\nfor n in range(10**9): open(f'{RESULT}/{n}', 'wb').close()",
    "fills the disk deep down": (
        "\nos.chdir(RESULT)\nwhile True: os.mkdir('d'); os.chdir('d'); open('x', 'wb').write(b'x')"
    ),
    "fills the disk behind a shut door": (
        "os.mkdir(RESULT + '/d'); os.chdir(RESULT + '/d'); os.chmod('.', 0o300)\n"
        "for n in range(10**6): open(f'{n}', 'wb').write(bytes(2**24))"
    ),
    "leaves a terabyte of nothing": (
        "leave('start.safetensors', ''); os.truncate(RESULT + '/start.safetensors', 2**40); say(event='done')"
    ),
    "links a result to another tenant's file": "os.symlink(CANARY, RESULT + '/preparation.json'); say(event='done')",
    "links its folder to the machine's": "os.symlink('/', RESULT + '/labels'); say(event='done')",
    "links a result to its input": "os.link(JOB + '/model.pt', RESULT + '/repaired.pt'); say(event='done')",
    "leaves a pipe": "os.mkfifo(RESULT + '/preparation.json'); say(event='done')",
    "forges a verdict": (
        "leave('preparation.json', {'verdict': 'no_backdoor_found', 'num_labels': 10}); say(event='done')"
    ),
    "forges a finding without a number": (
        'leave(\'labels/000000.json\', \'{"label": 0, "name": "0", "families": [{"family": "static", '
        '"norm": NaN, "attack_success_rate": 1, "loss": 0, "steps": 1}]}\'); say(event=\'done\')'
    ),
    "forges a picture that is none": "leave('strips/000000-static.png', 'x' * 1000); say(event='done')",
    "forges repaired weights": "leave('repaired.pt', 'cos\\nsystem\\n(S\"id\"\\ntR.'); say(event='done')",
    "ends at once": "os._exit(0)",
    "ends as if it had done well": "say(event='refused', problem={}); os._exit(0)",
}
