# jars.sh: install a server in Java that tests run, from Maven Central. The
# deps.sh of its folder sets name (also of the folder in the cache) and title,
# and sources this with its own arguments:
#
#   [install]    install what is missing; without the word, forgive a failure
#                outside continuous integration
#   where        print the folder of its jars, or say what is missing and exit 1
#
# The jars go to a cache outside the repository, one folder for each state of
# pom.xml, so that a second run has nothing to do and needs no network:
#
#   ${XDG_CACHE_HOME:-~/.cache}/proa-test/NAME-HASH/*.jar
# shellcheck shell=bash
here=$(cd "$(dirname "$0")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/proa-test
folder=$cache/$name-$(git hash-object --stdin <"$here/pom.xml" | cut -c1-12)

fail() {
  echo "$name: $*" >&2
  exit 1
}

# have_java wants the Java that the server runs on.
have_java() {
  command -v java >/dev/null || fail "needs Java 17 or later (Debian: apt-get install default-jdk-headless)"
  local version
  version=$(java -XshowSettings:properties -version 2>&1 | sed -n 's/^ *java.specification.version = //p')
  [ "${version%%.*}" -ge 17 ] || fail "needs Java 17 or later; this is Java $version"
}

install() {
  have_java
  if [ -d "$folder" ]; then return; fi
  command -v mvn >/dev/null || fail "needs Maven (Debian: apt-get install maven)"
  echo "$name: installing $title"
  local building log
  building=$(mktemp -d "$cache/building-XXXXXX")
  log=$(mktemp)
  # shellcheck disable=SC2064 # the folder is known now
  trap "rm -rf '$building' '$log'" EXIT
  cp "$here/pom.xml" "$building"
  if ! mvn --batch-mode --quiet --file "$building/pom.xml" dependency:copy-dependencies -DoutputDirectory="$building/jars" >"$log" 2>&1; then
    cat "$log" >&2
    fail "Maven could not fetch the jars"
  fi
  mv "$building/jars" "$folder"
}

# one_at_a_time keeps two runs from installing the same thing.
one_at_a_time() {
  mkdir -p "$cache"
  exec 9>"$cache/lock"
  if command -v flock >/dev/null; then flock 9; fi
}

case "${1:-}" in
install)
  one_at_a_time
  install
  ;;
where)
  have_java
  [ -d "$folder" ] || fail "$title is not installed; run make test-deps"
  echo "$folder"
  ;;
"")
  if "$here/deps.sh" install; then
    echo "$name: $title is there"
  else
    case "${CI:-}" in "" | 0 | false | no) ;; *) exit 1 ;; esac
  fi
  ;;
*) fail "usage: deps.sh [install], or deps.sh where" ;;
esac
